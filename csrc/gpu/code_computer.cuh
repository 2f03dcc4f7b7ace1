// One warpgroup of a block that multiplies codes (code_gemm.cuh): its sums of all slabs, and of what puts zeros right.
#pragma once

#include "code_products.cuh"
#include "code_ring.cuh"
#include "code_zeros.cuh"

namespace openinference {
namespace codes {

#ifdef OPENINFERENCE_HOPPER

template <class T, class Weights> struct Computer {
    using Codes = CodesOf<Weights>;
    using Sum = typename Codes::Sum;  // of products before they are scaled
    static constexpr int kParts = T::kTokens / T::kPart, kCount = T::kPart / 2;
    using Part = Sum[kCount];
    using A = Operand<Weights>;
    Shared<T, Weights>& shared;
    float (&sums)[T::kTokens / 2];
    const int tile;  // of this warp, in the block
    Turn<Shared<T, Weights>::kStages> turn;

    __device__ __forceinline__ void run(int count) {
        if (count == 0) return;  // more splits than slabs
        if constexpr (kParts > 1) run_by_turns(count);
        else if constexpr (T::kGroups == 2) run_ahead(count);  // as registers allow
        else run_alone(count);
    }

    __device__ __forceinline__ void load(A& a) const {
        shared.copied[turn.stage].wait(turn.parity);
        a.load(shared.ring[turn.stage].weights[tile]);
    }
    __device__ __forceinline__ uint64_t x_of(int part) const {
        return tile_descriptor(&shared.ring[turn.stage].x[part * T::kPart][0]);
    }
    // part ← the products of this slab with a part of the tokens.
    __device__ __forceinline__ void multiply(Part& part, const A& a, int index) const {
        const uint64_t x = x_of(index);
        begin_products();
#pragma unroll
        for (int i = 0; i < kProducts; ++i)
            CodeProduct<Sum, T::kPart>::multiply(part, a.codes[i], advance(x, i * kProductBytes), i > 0);
        commit_products();
    }
    // sums += part, scaled.
    __device__ __forceinline__ void add(const Part& part, int index, uint32_t row_scales, int stage) {
        const float lower = lower_half(row_scales), upper = upper_half(row_scales);
        float* to = sums + index * kCount;
        if constexpr (Codes::kHasGroupScales) {
            const float* scales = shared.ring[stage].scales + index * T::kPart + threadIdx.x % 4 * 2;
#pragma unroll
            for (int i = 0; i < kCount; i += 4) {
                const float2 two = *reinterpret_cast<const float2*>(scales + i * 2);
                to[i] += static_cast<float>(part[i]) * (lower * two.x);
                to[i + 1] += static_cast<float>(part[i + 1]) * (lower * two.y);
                to[i + 2] += static_cast<float>(part[i + 2]) * (upper * two.x);
                to[i + 3] += static_cast<float>(part[i + 3]) * (upper * two.y);
            }
        } else {
#pragma unroll
            for (int i = 0; i < kCount; ++i) to[i] += part[i] * (i % 4 < 2 ? lower : upper);
        }
    }
    // A slab is given back before its last products are added up, unless that takes scales from it.
    template <bool kIsAdded> __device__ __forceinline__ void give_back(int stage) const {
        if constexpr (kIsAdded == Codes::kHasGroupScales) release(stage);
    }
    __device__ __forceinline__ void release(int stage) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) shared.empty[stage].arrive();
    }
    __device__ __forceinline__ void end(Part& part, const A& a, int stage) {
        wait_for_products<0>();
        pin(part);
        give_back<false>(stage);
        add(part, 0, a.scales, stage);
        give_back<true>(stage);
    }

    __device__ __forceinline__ void run_alone(int count) {
        Part part;
        for (; count > 0; --count, turn.advance()) {
            A a;
            load(a);
            multiply(part, a, 0);
            end(part, a, turn.stage);
        }
    }
    // The next slab's weights are loaded while this one's are multiplied: into two sets of registers by name, as
    // ptxas makes products wait where one is copied to the other.
    __device__ __forceinline__ void run_ahead(int count) {
        Part part;
        A a, b;
        load(a);
        int left = count - 1;
        for (; left >= 2; left -= 2) {
            step(part, a, b);
            step(part, b, a);
        }
        if (left == 1) {
            step(part, a, b);
            multiply(part, b, 0);
            end(part, b, turn.stage);
        } else {
            multiply(part, a, 0);
            end(part, a, turn.stage);
        }
        turn.advance();
    }
    __device__ __forceinline__ void step(Part& part, const A& mine, A& next) {
        const int stage = turn.stage;
        multiply(part, mine, 0);
        turn.advance();
        load(next);
        end(part, mine, stage);
    }
    // A part is added up while the next one is multiplied. One way into the loop and its end in the middle: else
    // ptxas makes products wait.
    __device__ __forceinline__ void run_by_turns(int count) {
        Part first, second;
        A a;
        load(a);
        multiply(first, a, 0);
        while (true) {
            const int stage = turn.stage;
            const uint32_t row_scales = a.scales;
#pragma unroll
            for (int part = 0; part < kParts; part += 2) {
                if (part > 0) {
                    multiply(first, a, part);
                    wait_for_products<1>();
                    pin(second);
                    add(second, part - 1, row_scales, stage);
                }
                multiply(second, a, part + 1);
                wait_for_products<1>();
                pin(first);
                add(first, part, row_scales, stage);
            }
            wait_for_products<0>();
            pin(second);
            turn.advance();
            give_back<false>(stage);
            if (--count == 0) {
                add(second, kParts - 1, row_scales, stage);
                return;
            }
            load(a);
            multiply(first, a, 0);
            add(second, kParts - 1, row_scales, stage);
            give_back<true>(stage);
        }
    }

    // sums += those of scale·zero, by the sums of groups; tiles: of all weights.
    __device__ __forceinline__ void add_zeros(const Weights& weights, int tiles) {
        const Steps steps = shared.steps;
        const int groups = weights.columns / kColumns, own = blockIdx.y * T::kBlockTiles + tile;
        const uint8_t* units =
            own < tiles ? weights.units + static_cast<size_t>(own) * groups * Weights::kUnitBytes : nullptr;
        for (int index = 0; index < steps.sums; ++index, turn.advance()) {
            uint32_t most[2][4], rest[2][4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int group = (steps.first_sums + index) * kSumGroups + half * 16;
                load_zeros<Weights>(units, groups, group, most[half], rest[half]);
            }
            shared.copied[turn.stage].wait(turn.parity);
#pragma unroll
            for (int of = 0; of < kParts; ++of) {
                float part[kCount];
                const uint64_t x = x_of(of);
                begin_products();
#pragma unroll
                for (int i = 0; i < kProducts; ++i) {
                    Warpgroup<T::kPart>::multiply(part, most[i % 2], advance(x, i * kProductBytes), i > 0);
                    if constexpr (Zeros<Weights>::kHasRest)
                        Warpgroup<T::kPart>::multiply(part, rest[i % 2], advance(x, i * kProductBytes), true);
                }
                commit_products();
                wait_for_products<0>();
                pin(part);
#pragma unroll
                for (int i = 0; i < kCount; ++i) sums[of * kCount + i] += part[i];  // in place takes more registers
            }
            release(turn.stage);
        }
    }
    __device__ __forceinline__ void scale_tokens() {
        const float* scales = shared.x_scales + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < T::kTokens / 2; i += 4) {
            const float2 two = *reinterpret_cast<const float2*>(scales + i * 2);
            sums[i] *= two.x, sums[i + 1] *= two.y, sums[i + 2] *= two.x, sums[i + 3] *= two.y;
        }
    }
};

#endif

}  // namespace codes
}  // namespace openinference
