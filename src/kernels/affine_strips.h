// Affine weights laid out for the products: sixteen rows side by side in the lanes of a vector, everything that they need in one
// stream of memory.
//
// A strip holds 16 rows, the last one padded with zeros. Its groups follow each other, each of them
//   scales [16], biases [16] in the stored type;
//   the codes in blocks of kB inputs (32 for group_size 32, else 64), each block in planes: 4-bit fields (widths 4, 5, 6: the low bits),
//   2-bit fields (2, 3: the low bits; 6: the high ones), 1-bit fields (3, 5: the high bit), bytes (8).
// A plane of w-bit fields is [step][16 rows][4 bytes]; field f of byte b of step s is of input (8 / w * s + f) * 4 + b: shifted and
// masked, a vector holds four neighbouring inputs of every row, whatever the width, in the order of the activations. A strip has the
// bytes of the rows as stored.
#ifndef OPTIQ_KERNELS_AFFINE_STRIPS_H_
#define OPTIQ_KERNELS_AFFINE_STRIPS_H_

#include "kernels/affine_matmul.h"

namespace optiq {

inline constexpr int64_t kStripRows = 16;

// Of one strip of w.
int64_t StripBytes(const AffineRows& w);

// The kernels of AVX-512 with VNNI. Strips [begin, end) of the first `rows` rows of w, as stored, to out.
void PackStrips(const AffineRows& w, int64_t rows, int64_t begin, int64_t end, std::byte* out);
// AffineKernels::gemv (a.m is 1, no scratch) and gemm on w.strips. begin must be a multiple of 16.
void MultiplyStrips(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
                    std::byte* scratch);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_STRIPS_H_
