// The products of a mixture of experts: rows are put in the order of the experts they go to, and each
// expert's panels serve all of its rows at once.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "ops.h"

namespace openinference::cpu {

Experts::Experts(Matrices gates, Matrices ups, Matrices downs)
    : gates_(std::move(gates)), ups_(std::move(ups)), downs_(std::move(downs)) {
    if (gates_.empty() || ups_.size() != gates_.size() || downs_.size() != gates_.size())
        throw std::invalid_argument("experts: give a gate, an up and a down matrix of each");
    for (int64_t expert = 0; expert < count(); ++expert) {
        for (int part = 0; part < 3; ++part) {
            const Packed& weight = matrix(part, expert);
            const bool is_down = part == 2;
            if (weight.inputs() != (is_down ? inner() : hidden()) || weight.outputs() != (is_down ? hidden() : inner()))
                throw std::invalid_argument("experts: a matrix of expert " + std::to_string(expert) +
                                            " does not fit the gate of the first");
            bool& quantises = is_down ? quantises_inner_ : quantises_input_;
            quantises = quantises || !weight.format().is_float();
        }
    }
}

const Packed& Experts::matrix(int part, int64_t expert) const {
    return *(part == 0 ? gates_ : part == 1 ? ups_ : downs_)[expert];
}

int64_t Operations::visit_experts(int64_t experts, int64_t rows, const int64_t* ids, int64_t chosen) {
    std::vector<int64_t> counts(experts, 0), next(experts, 0);
    for (int64_t i = 0; i < rows * chosen; ++i) {
        if (ids[i] < 0 || ids[i] >= experts)
            throw std::out_of_range("ids: " + std::to_string(ids[i]) + " is none of " + std::to_string(experts) +
                                    " experts");
        ++counts[ids[i]];
    }
    visits_.clear();
    int64_t first = 0;
    for (int64_t expert = 0; expert < experts; first += counts[expert++]) {
        next[expert] = first;
        if (counts[expert] > 0) visits_.push_back({expert, first, counts[expert]});
    }
    places_.resize(rows * chosen);
    for (int64_t i = 0; i < rows * chosen; ++i) places_[i] = next[ids[i]]++;
    return first;
}

void Operations::multiply_visited(const Experts& experts, int part, int parts, Rows<const float> x, Rows<float> out) {
    const Packed& shape = experts.matrix(part, 0);
    const int64_t panels = shape.panels(), per_visit = parts * panels;
    share_panels(static_cast<int64_t>(visits_.size()) * per_visit, [&](int64_t index) {
        const Visit& visit = visits_[index / per_visit];
        const int64_t which = index % per_visit / panels;
        const LinearOutput output{{out[visit.first] + which * shape.outputs(), out.stride}, nullptr};
        multiply(experts.matrix(part + static_cast<int>(which), visit.expert), index % panels,
                 {x[visit.first], x.stride}, inputs_.data() + visit.first * shape.groups(), visit.count, output);
    });
}

void Operations::sum_visited(const int64_t* places, const float* shares, int64_t chosen, Rows<const float> results,
                             int64_t n, float* out) const {
    std::fill(out, out + n, 0.0f);
    for (int64_t added = 0, last = -1; added < chosen; ++added) {
        int64_t next = -1;
        for (int64_t i = 0; i < chosen; ++i)
            if (places[i] > last && (next < 0 || places[i] < places[next])) next = i;
        last = places[next];
        for (int64_t column = 0; column < n; ++column) out[column] += shares[next] * results[last][column];
    }
}

void Operations::experts(const Experts& experts, Rows<const float> x, int64_t rows, const int64_t* ids,
                         const float* shares, int64_t chosen, float* out) {
    const std::lock_guard<std::mutex> lock(one_caller_);
    const int64_t places = visit_experts(experts.count(), rows, ids, chosen);
    const int64_t hidden = experts.hidden(), inner = experts.inner();
    visited_.resize(std::max<size_t>(visited_.size(), places * hidden));
    inner_.resize(std::max<size_t>(inner_.size(), places * 2 * inner));
    const Rows<float> visited{visited_.data(), hidden}, gate_up{inner_.data(), 2 * inner};

    share_rows(rows, chosen * hidden, [&](int64_t row) {
        for (int64_t i = row * chosen; i < (row + 1) * chosen; ++i)
            std::memcpy(visited[places_[i]], x[row], hidden * sizeof(float));
    });
    if (experts.quantises_input()) quantise({visited.data, hidden}, places, hidden);
    multiply_visited(experts, 0, 2, {visited.data, hidden}, gate_up);

    share_rows(places, inner, [&](int64_t place) {
        kernels_.silu_mul(gate_up[place], gate_up[place] + inner, inner, gate_up[place]);
    });
    if (experts.quantises_inner()) quantise({gate_up.data, gate_up.stride}, places, inner);
    multiply_visited(experts, 2, 1, {gate_up.data, gate_up.stride}, visited);

    share_rows(rows, chosen * hidden, [&](int64_t row) {
        sum_visited(&places_[row * chosen], shares + row * chosen, chosen, {visited.data, hidden}, hidden,
                    out + row * hidden);
    });
}

}  // namespace openinference::cpu
