// What candle calls of cuRAND, by the host's generator: other numbers than NVIDIA's, from the same distributions.
#include <random>

#include "driver.hpp"
#include "libraries.hpp"
#include "memory.hpp"

using Generator = std::mt19937_64;

namespace {

template <class T, class Draw>
int fill(T* address, size_t n, Draw draw) {
    Lock guard(lock);
    const Range r = range(reinterpret_cast<uint64_t>(address), n * sizeof(T));
    if (!r) {
        complain("cuRAND: beyond an allocation");
        return CURAND_LAUNCH_FAILURE;
    }
    for (size_t k = 0; k < n; k++) reinterpret_cast<T*>(r.host)[k] = draw();
    mark_written(r, n * sizeof(T));
    return CURAND_SUCCESS;
}

// In (0, 1], as cuRAND has it.
template <class T>
int uniform(void* generator, T* to, size_t n) {
    std::uniform_real_distribution<T> distribution;
    return fill(to, n, [&] { return 1 - distribution(*static_cast<Generator*>(generator)); });
}

// Made in pairs, as cuRAND's: an odd number is refused.
template <class T>
int normal(void* generator, T* to, size_t n, T mean, T deviation) {
    if (n % 2) return CURAND_LENGTH_NOT_MULTIPLE;
    std::normal_distribution<T> distribution(mean, deviation);
    return fill(to, n, [&] { return distribution(*static_cast<Generator*>(generator)); });
}

}  // namespace

extern "C" {

int curandCreateGenerator(void** g, int) { return count_call(__func__), *g = new Generator(0), CURAND_SUCCESS; }
int curandDestroyGenerator(void* g) { return count_call(__func__), delete static_cast<Generator*>(g), CURAND_SUCCESS; }
int curandSetStream(void*, void*) { return count_call(__func__), CURAND_SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(void* g, unsigned long long seed) {
    return count_call(__func__), static_cast<Generator*>(g)->seed(seed), CURAND_SUCCESS;
}
int curandGenerateUniform(void* g, float* to, size_t n) { return count_call(__func__), uniform(g, to, n); }
int curandGenerateUniformDouble(void* g, double* to, size_t n) { return count_call(__func__), uniform(g, to, n); }
int curandGenerateNormal(void* g, float* to, size_t n, float mean, float deviation) {
    return count_call(__func__), normal(g, to, n, mean, deviation);
}
int curandGenerateNormalDouble(void* g, double* to, size_t n, double mean, double deviation) {
    return count_call(__func__), normal(g, to, n, mean, deviation);
}

}  // extern "C"
