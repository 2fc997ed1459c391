// Dense matrix product kernels on packed panels, f32 and bf16. A panel holds the weights of `nr` output columns over a range of the
// inner dimension, so that one step of the inner loop is a contiguous load. Every output element is one chain of fused
// multiply-adds in the order of k, whatever m, the tile or the thread: results do not depend on the batch.
#ifndef OPTIQ_KERNELS_GEMM_H_
#define OPTIQ_KERNELS_GEMM_H_

#include <cstddef>
#include <cstdint>

namespace optiq {

// Columns of a panel for the instruction set in use (32 on AVX-512).
int64_t GemmPanelColumns();

// rows: n <= GemmPanelColumns() rows of f32 [n][ld], the values k0..k0+k-1 of each are taken. panel: f32 [k][nr]; missing
// columns are zero.
void PackPanelF32(const float* rows, int64_t ld, int64_t n, int64_t k, float* panel);

// c[m][n] (+)= a[m][k] * panel. a and c are row-major with row strides lda, ldc. n <= nr columns are written.
void GemmPanelF32(const float* a, int64_t lda, int64_t m, const float* panel, int64_t k, float* c, int64_t ldc, int64_t n,
                  bool accumulate);

// The same with bf16 products and f32 sums (AVX-512 BF16: vdpbf16ps). Panels are bf16 pairs [ceil(k/2)][nr][2]; a is bf16
// row-major with even lda; k may be odd when a's rows are padded with a zero.
bool HasBF16Gemm();
void PackPanelBF16(const float* rows, int64_t ld, int64_t n, int64_t k, uint16_t* panel);
// The same panel from rows stored as bf16, `stride` bytes apart, at any alignment; only with HasBF16Gemm(). Rows at `next`, with the
// same stride, are fetched for later unless it is null.
void PackPanelStoredBF16(const std::byte* rows, int64_t stride, int64_t n, int64_t k, const std::byte* next, uint16_t* panel);
void GemmPanelBF16(const uint16_t* a, int64_t lda, int64_t m, const uint16_t* panel, int64_t k, float* c, int64_t ldc,
                   int64_t n, bool accumulate);

// Round to bf16, ties to even, like F32ToBF16 but many at a time (finite values).
void ConvertToBF16(const float* in, int64_t n, uint16_t* out);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_GEMM_H_
