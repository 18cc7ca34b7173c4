"""Files by their names, whatever they hold: regular files opened for reading, and targets written whole or not at all."""
