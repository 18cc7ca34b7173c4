"""temporary"""
from dataclasses import dataclass
from scalablevit_ref.compare.capture.uses import uses_of
@dataclass
class Part:
    own: str
    turned: bool=False
    official_rows: object=None
    own_rows: object=None
class Pairing:
    def __init__(self, graph, own, network):
        shapes=network.parameter_shapes(); self.shapes=shapes
        names=list(own)
        pre=next(n[:-len(next(iter(shapes)))] for n in names if n.endswith(next(iter(shapes))))
        self.pre=pre
        self.parts={n:(Part(pre+n),) for n in shapes}
        self.steps={}
        for u in uses_of(graph):
            self.steps.setdefault(u.weight.removeprefix(pre).rpartition('.')[0],[]).append(u)
        self.steps={k:tuple(v[-1:]) for k,v in self.steps.items()}
        self.notes=()
    def own_weights(self, official, own): return {self.pre+n: official[n].astype(own[self.pre+n].dtype) for n in self.shapes}
    def official_weights(self, own): return {n: own[self.pre+n] for n in self.shapes}
def paired(graph, own, network, images_shape, *, names=None): return Pairing(graph, own, network)
