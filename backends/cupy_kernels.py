"""CUDA kernels for what CuPy has no single call for. The macro REAL is float or double; every array is dense, row by row."""

LANES = 32
"""Threads that share one row: a warp."""

FOUR = 4
"""Numbers that a thread of `add_bias` reads and writes at once."""

SOURCE = r"""
#ifndef LANES
#define LANES 32
#endif

typedef REAL T;

// The sum, and the largest, of one value of each lane, in every lane.
__device__ T total(T value) {
    for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}
__device__ T largest(T value) {
    for (int step = LANES / 2; step > 0; step /= 2) value = fmax(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}
__device__ long long thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

struct alignas(4 * sizeof(T)) Four { T of[4]; };

extern "C" __global__ void add_bias(T* y, const T* bias, long long fours, int c) {  // y: rows of c; both c and y's address by 4
    const long long i = thread();
    if (i >= fours) return;
    const int quarter = c / 4;
    const int channel = 4 * (fours <= 0x7fffffffLL ? int(i) % quarter : int(i % quarter));
    Four sum = reinterpret_cast<Four*>(y)[i];
    for (int k = 0; k < 4; ++k) sum.of[k] += bias[channel + k];
    reinterpret_cast<Four*>(y)[i] = sum;
}

extern "C" __global__ void gelu(const T* x, T* y, long long size) {
    const long long i = thread();
    if (i < size) y[i] = T(0.5) * x[i] * erfc(x[i] * T(-0.70710678118654752));  // x Phi(x)
}

extern "C" __global__ void layer_norm(const T* x, const T* weight, const T* bias, T* y, long long rows, int c, T eps) {
    const long long row = thread() / LANES;
    const int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    x += row * c;
    y += row * c;
    T sum = 0, squares = 0;
    for (int i = lane; i < c; i += LANES) sum += x[i];
    const T mean = total(sum) / c;
    for (int i = lane; i < c; i += LANES) squares += (x[i] - mean) * (x[i] - mean);
    const T deviation = sqrt(total(squares) / c + eps);
    for (int i = lane; i < c; i += LANES) y[i] = (x[i] - mean) / deviation * weight[i] + bias[i];
}

extern "C" __global__ void softmax(const T* x, T* y, long long rows, int m, T scale) {  // of x * scale; y may be x
    const long long row = thread() / LANES;
    const int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    x += row * m;
    y += row * m;
    T top = x[0] * scale, sum = 0;
    for (int i = lane; i < m; i += LANES) top = fmax(top, x[i] * scale);
    top = largest(top);
    for (int i = lane; i < m; i += LANES) sum += exp(x[i] * scale - top);
    sum = total(sum);
    for (int i = lane; i < m; i += LANES) y[i] = exp(x[i] * scale - top) / sum;
}

// Where number i of b h w c is; divisions of 64 bits take a GPU several times as long as those of 32.
template <typename I>
__device__ void locate(I i, int h, int w, int c, long long& image, int& row, int& column, int& channel) {
    channel = i % c;
    i /= c;
    column = i % w;
    i /= w;
    row = i % h;
    image = i / h;
}

extern "C" __global__ void depthwise(  // b h w c and c kh kw to b h2 w2 c; neighbouring threads have neighbouring channels
    const T* x, const T* weight, const T* bias, T* y,
    long long size, int h, int w, int c, int h2, int w2, int kh, int kw, int stride, int padding
) {
    const long long i = thread();
    if (i >= size) return;
    long long image;
    int row, column, channel;
    if (size <= 0x7fffffffLL) locate(int(i), h2, w2, c, image, row, column, channel);
    else locate(i, h2, w2, c, image, row, column, channel);
    T sum = bias[channel];
    for (int a = 0; a < kh; ++a) {
        const int from_row = row * stride + a - padding;
        if (from_row < 0 || from_row >= h) continue;
        for (int b = 0; b < kw; ++b) {
            const int from_column = column * stride + b - padding;
            if (from_column < 0 || from_column >= w) continue;
            sum += x[((image * h + from_row) * w + from_column) * c + channel] * weight[(channel * kh + a) * kw + b];
        }
    }
    y[i] = sum;
}
"""
