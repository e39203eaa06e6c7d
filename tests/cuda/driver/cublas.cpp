// What candle calls of cuBLAS: products of matrices that lie by columns, summed in double.
#include "driver.hpp"
#include "libraries.hpp"
#include "memory.hpp"

namespace {

int handle;

template <class T>
double load_as(const char* cells, size_t at) {
    return double(reinterpret_cast<const T*>(cells)[at]);
}
template <class T>
void store_as(char* cells, size_t at, double value) {
    reinterpret_cast<T*>(cells)[at] = T(value);
}

size_t bytes_of(int type) {
    switch (type) {
        case CUDA_R_32F: return 4;
        case CUDA_R_64F: return 8;
        case CUDA_R_16F: case CUDA_R_16BF: return 2;
        default: return 0;
    }
}
double load(const char* cells, int type, size_t at) {
    switch (type) {
        case CUDA_R_32F: return load_as<float>(cells, at);
        case CUDA_R_64F: return load_as<double>(cells, at);
        case CUDA_R_16F: return load_as<ptx::f16>(cells, at);
        default: return load_as<ptx::bf16>(cells, at);
    }
}
void store(char* cells, int type, size_t at, double value) {
    switch (type) {
        case CUDA_R_32F: return store_as<float>(cells, at, value);
        case CUDA_R_64F: return store_as<double>(cells, at, value);
        case CUDA_R_16F: return store_as<ptx::f16>(cells, at, value);
        default: return store_as<ptx::bf16>(cells, at, value);
    }
}

// A batch of matrices as cuBLAS is told of it.
struct Matrices {
    const void* address;
    int type, rows, columns, transposed;
    size_t lead;
    long long stride;
    Range cells{};

    bool reach(int batch) {
        const int lines = transposed ? rows : columns, length = transposed ? columns : rows;
        const size_t span = size_t(batch - 1) * stride + size_t(lines - 1) * lead + length;
        cells = range(reinterpret_cast<uint64_t>(address), bytes_of(type) * span);
        return bool(cells);
    }
    size_t at(int matrix, int row, int column) const {
        return matrix * stride + (transposed ? row * lead + column : column * lead + row);
    }
    // The values of one of them, by rows; false where a cell was never written.
    bool read(int matrix, std::vector<double>& values) const {
        values.clear();
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++) {
                const size_t cell = at(matrix, row, column);
                if (!cells.shadow[cell * bytes_of(type)].writer) return false;
                values.push_back(load(cells.host, type, cell));
            }
        return true;
    }
};

int multiply(double alpha, Matrices a, Matrices b, double beta, Matrices c, int batch) {
    Lock guard(lock);
    if (!bytes_of(a.type) || !bytes_of(b.type) || !bytes_of(c.type)) {
        complain("cuBLAS: a type that the tests do not know");
        return CUBLAS_NOT_SUPPORTED;
    }
    if (!a.reach(batch) || !b.reach(batch) || !c.reach(batch)) {
        complain("cuBLAS: a matrix reaches beyond its allocation");
        return CUBLAS_EXECUTION_FAILED;
    }
    std::vector<double> left, right;
    for (int m = 0; m < batch; m++) {
        if (!a.read(m, left) || !b.read(m, right)) {
            complain("cuBLAS: a cell that nothing has written");
            return CUBLAS_EXECUTION_FAILED;
        }
        for (int j = 0; j < c.columns; j++)
            for (int i = 0; i < c.rows; i++) {
                double sum = 0;
                for (int l = 0; l < a.columns; l++) sum += left[size_t(i) * a.columns + l] * right[size_t(l) * b.columns + j];
                const size_t to = c.at(m, i, j), bytes = bytes_of(c.type);
                const double before = beta != 0 ? beta * load(c.cells.host, c.type, to) : 0;
                store(c.cells.host, c.type, to, alpha * sum + before);
                mark_written({c.cells.host + to * bytes, c.cells.shadow + to * bytes}, bytes);
            }
    }
    return CUBLAS_SUCCESS;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** h) { return count_call(__func__), *h = &handle, CUBLAS_SUCCESS; }
int cublasDestroy_v2(void*) { return count_call(__func__), CUBLAS_SUCCESS; }
int cublasSetStream_v2(void*, void*) { return count_call(__func__), CUBLAS_SUCCESS; }

int cublasGemmStridedBatchedEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                               long long a_stride, const void* b, int b_type, int ldb, long long b_stride, const void* beta,
                               void* c, int c_type, int ldc, long long c_stride, int batch, int compute, int) {
    count_call(__func__);
    const int scalar = compute == CUBLAS_COMPUTE_16F ? CUDA_R_16F : compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    const auto number = [&](const void* of) { return load(static_cast<const char*>(of), scalar, 0); };
    return multiply(number(alpha), {a, a_type, m, k, ta, size_t(lda), a_stride}, {b, b_type, k, n, tb, size_t(ldb), b_stride},
                    number(beta), {c, c_type, m, n, 0, size_t(ldc), c_stride}, batch);
}
int cublasDgemmStridedBatched(void*, int ta, int tb, int m, int n, int k, const double* alpha, const void* a, int lda,
                              long long a_stride, const void* b, int ldb, long long b_stride, const double* beta, void* c,
                              int ldc, long long c_stride, int batch) {
    count_call(__func__);
    return multiply(*alpha, {a, CUDA_R_64F, m, k, ta, size_t(lda), a_stride}, {b, CUDA_R_64F, k, n, tb, size_t(ldb), b_stride},
                    *beta, {c, CUDA_R_64F, m, n, 0, size_t(ldc), c_stride}, batch);
}

}  // extern "C"
