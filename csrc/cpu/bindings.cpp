// The Python module `_cpu`. Tensors come as addresses and sizes: ops/cpu.py checks them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops.h"

namespace py = pybind11;
using namespace openinference::cpu;

namespace {

using Address = uintptr_t;
using Unlocked = py::call_guard<py::gil_scoped_release>;

template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

// Unlocked here, since a guard would hold while pybind11 enters the new object into what all threads share.
std::shared_ptr<Packed> pack(const std::string& format, Address stored, int64_t outputs, int64_t inputs) {
    const py::gil_scoped_release unlocked;
    return std::make_shared<Packed>(find_format(format), at<const uint8_t>(stored), outputs, inputs);
}

void linear(Operations& operations, const Packed& weight, Address x, int64_t x_stride, int64_t rows, Address bias,
            Address out) {
    operations.linear(weight, {at<const float>(x), x_stride}, rows,
                      {{at<float>(out), weight.outputs()}, at<const float>(bias)});
}

void embedding(Operations& operations, const Packed& weight, Address ids, int64_t count, Address out) {
    operations.embedding(weight, at<const int64_t>(ids), count, at<float>(out));
}

void rms_norm(Operations& operations, Address x, int64_t x_stride, Address weight, float epsilon, int64_t rows,
              int64_t n, Address out) {
    operations.rms_norm({at<const float>(x), x_stride}, at<const float>(weight), epsilon, rows, n, at<float>(out));
}

void silu_mul(Operations& operations, Address gate_up, int64_t stride, int64_t rows, int64_t n, Address out) {
    operations.silu_mul({at<const float>(gate_up), stride}, rows, n, at<float>(out));
}

void rotate(Operations& operations, Address x, int64_t stride, Address cosine, Address sine, int64_t rows,
            int64_t heads, int64_t head_dim) {
    operations.rotate({at<float>(x), stride}, at<const float>(cosine), at<const float>(sine), rows, heads, head_dim);
}

Vectors vectors_at(const std::string& format, Address codes, Address numbers) {
    return {find_vector_format(format), at<uint8_t>(codes), at<uint16_t>(numbers)};
}

void append_kv(Operations& operations, Address key, int64_t key_stride, Address value, int64_t value_stride,
               const Cache& cache, Address slots, int64_t rows) {
    operations.append_kv({at<const float>(key), key_stride}, {at<const float>(value), value_stride}, cache,
                         at<const int64_t>(slots), rows);
}

void paged_attention(Operations& operations, Address query, int64_t query_stride, const Cache& cache, int64_t count,
                     Address starts, Address lengths, Address blocks, int64_t blocks_stride, int64_t heads,
                     float scale, int64_t window, int64_t rows, Address out) {
    const Sequences sequences{count, at<const int32_t>(starts), at<const int32_t>(lengths),
                              at<const int32_t>(blocks), blocks_stride};
    operations.paged_attention({at<const float>(query), query_stride}, cache, sequences, heads, scale, window, rows,
                               {at<float>(out), heads * cache.head_dim});
}

void route(Operations& operations, Address logits, int64_t stride, int64_t experts, int64_t chosen, bool normalise,
           int64_t rows, Address ids, Address shares) {
    operations.route({at<const float>(logits), stride}, experts, chosen, normalise, rows, at<int64_t>(ids),
                     at<float>(shares));
}

void experts(Operations& operations, const Experts& experts, Address x, int64_t stride, int64_t rows, Address ids,
             Address shares, int64_t chosen, Address out) {
    operations.experts(experts, {at<const float>(x), stride}, rows, at<const int64_t>(ids), at<const float>(shares),
                       chosen, at<float>(out));
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    using namespace py::literals;
    module.doc() = "CPU kernels over raw addresses; csrc/cpu/ops.h says what each operation does.";

    py::class_<Packed, std::shared_ptr<Packed>>(module, "Packed")
        .def(py::init(&pack), "format"_a, "stored"_a, "outputs"_a, "inputs"_a)
        .def_property_readonly("format", [](const Packed& weight) { return weight.format().name; })
        .def_property_readonly("outputs", &Packed::outputs)
        .def_property_readonly("inputs", &Packed::inputs)
        .def_property_readonly("num_bytes", &Packed::bytes);

    py::class_<Experts>(module, "Experts")
        .def(py::init<Experts::Matrices, Experts::Matrices, Experts::Matrices>(), "gates"_a, "ups"_a, "downs"_a)
        .def_property_readonly("hidden", &Experts::hidden);

    py::class_<Vectors>(module, "Vectors").def(py::init(&vectors_at), "format"_a, "codes"_a, "numbers"_a);

    py::class_<Cache>(module, "Cache")
        .def(py::init<Vectors, Vectors, int64_t, int64_t, int64_t, int64_t>(), "keys"_a, "values"_a,
             "num_blocks"_a, "kv_heads"_a, "head_dim"_a, "block_size"_a);

    py::class_<Operations>(module, "Operations")
        .def(py::init([](int threads, const std::string& isa) {
                 return std::make_unique<Operations>(threads, isa.empty() ? best_kernels()
                                                                          : find_kernels(isa.c_str()));
             }),
             "threads"_a, "isa"_a = "")
        .def_property_readonly("threads", &Operations::threads)
        .def_property_readonly("isa", &Operations::isa)
        .def("linear", &linear, "weight"_a, "x"_a, "x_stride"_a, "rows"_a, "bias"_a, "out"_a, Unlocked())
        .def("embedding", &embedding, "weight"_a, "ids"_a, "count"_a, "out"_a, Unlocked())
        .def("rms_norm", &rms_norm, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a, "rows"_a, "n"_a, "out"_a,
             Unlocked())
        .def("silu_mul", &silu_mul, "gate_up"_a, "stride"_a, "rows"_a, "n"_a, "out"_a, Unlocked())
        .def("rotate", &rotate, "x"_a, "stride"_a, "cosine"_a, "sine"_a, "rows"_a, "heads"_a, "head_dim"_a,
             Unlocked())
        .def("append_kv", &append_kv, "key"_a, "key_stride"_a, "value"_a, "value_stride"_a, "cache"_a, "slots"_a,
             "rows"_a, Unlocked())
        .def("paged_attention", &paged_attention, "query"_a, "query_stride"_a, "cache"_a, "count"_a, "starts"_a,
             "lengths"_a, "blocks"_a, "blocks_stride"_a, "heads"_a, "scale"_a, "window"_a, "rows"_a, "out"_a,
             Unlocked())
        .def("route", &route, "logits"_a, "stride"_a, "experts"_a, "chosen"_a, "normalise"_a, "rows"_a, "ids"_a,
             "shares"_a, Unlocked())
        .def("experts", &experts, "experts"_a, "x"_a, "stride"_a, "rows"_a, "ids"_a, "shares"_a, "chosen"_a, "out"_a,
             Unlocked());
}
