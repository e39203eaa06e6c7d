// The numbers that cuBLAS and cuRAND answer with and are told; their headers come with gigabytes of libraries.
#pragma once
enum CublasStatus { CUBLAS_SUCCESS = 0, CUBLAS_INVALID_VALUE = 7, CUBLAS_EXECUTION_FAILED = 13, CUBLAS_NOT_SUPPORTED = 15 };
enum CudaType { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum CublasCompute { CUBLAS_COMPUTE_16F = 64, CUBLAS_COMPUTE_64F = 70 };
enum CurandStatus { CURAND_SUCCESS = 0, CURAND_LENGTH_NOT_MULTIPLE = 105, CURAND_LAUNCH_FAILURE = 201 };
