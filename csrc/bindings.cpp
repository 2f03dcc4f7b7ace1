// The Python module: tensors come in as any object with torch's attributes, ops go out as functions.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops.h"
#ifdef OPENINFERENCE_HAS_HOPPER_OPS
#include "gpu/shared_memory.h"
#include "hopper/hopper_ops.h"
#endif

namespace py = pybind11;
using openinference::Stream;
using openinference::Team;
using openinference::Tensor;

namespace pybind11::detail {

template <> struct type_caster<Tensor> {
    PYBIND11_TYPE_CASTER(Tensor, const_name("torch.Tensor"));

    bool load(handle source, bool) {
        if (!hasattr(source, "data_ptr")) return false;
        value.data = reinterpret_cast<void*>(source.attr("data_ptr")().cast<uintptr_t>());
        value.dtype = str(source.attr("dtype")).cast<std::string>();
        value.dtype.erase(0, value.dtype.rfind('.') + 1);  // "torch.bfloat16"
        value.shape.clear();
        for (handle length : source.attr("shape")) value.shape.push_back(length.cast<int64_t>());
        value.is_contiguous = source.attr("is_contiguous")().cast<bool>();
        return true;
    }
};

}  // namespace pybind11::detail

PYBIND11_MODULE(OPENINFERENCE_MODULE, module) {
    using namespace py::literals;
    module.doc() = "Kernels of the decode step; csrc/ops.h says what each op reads and writes.";
    // Local, because the emulated module may live in the same process.
    py::register_local_exception<openinference::KernelError>(module, "KernelError", PyExc_ValueError);
    py::class_<Stream>(module, "Stream", py::module_local())
        .def(py::init([](uintptr_t handle, bool overlaps) { return Stream{handle, overlaps}; }), "handle"_a, "overlaps"_a)
        .def("with_room",
             [](Stream stream, const Tensor& room) {
                 stream.room = room.as<uint8_t>("room", {-1});
                 stream.room_bytes = room.length("room", 0);
                 return stream;
             },
             "room"_a)
        .def_readonly("handle", &Stream::handle)
        .def_readonly("overlaps", &Stream::overlaps);

    py::class_<Team>(module, "Team", py::module_local())
        .def(py::init<int, int, std::vector<uintptr_t>, std::vector<uintptr_t>, int64_t, uintptr_t,
                      uintptr_t, int64_t, std::vector<uintptr_t>, std::vector<uintptr_t>, int64_t>(),
             "rank"_a, "ranks"_a, "inboxes"_a, "logits"_a, "words"_a, "ended"_a, "aborted"_a,
             "patience_nanoseconds"_a, "peers_aborted"_a, "parts"_a = std::vector<uintptr_t>{}, "part_elements"_a = 0);

    module.def("embed", &openinference::embed, "tokens"_a, "table"_a, "norm_weight"_a, "hidden"_a, "x"_a,
               "sum_squares"_a, "stream"_a);
    module.def("code_rows", &openinference::code_rows, "x"_a, "sum_squares"_a, "epsilon"_a, "out"_a, "stream"_a);
    module.def("code_groups", &openinference::code_groups, "x"_a, "sum_squares"_a, "epsilon"_a, "out"_a, "stream"_a);
    module.def("project_qkv", &openinference::project_qkv, "x"_a, "sum_squares"_a, "epsilon"_a, "weights"_a,
               "rotary"_a, "positions"_a, "block_table"_a, "query"_a, "key_cache"_a, "value_cache"_a,
               "stream"_a);
    module.def("project_normed_qkv", &openinference::project_normed_qkv, "x"_a, "sum_squares"_a, "epsilon"_a,
               "weights"_a, "norms"_a, "sums"_a, "rotary"_a, "positions"_a, "block_table"_a, "query"_a, "key_cache"_a,
               "value_cache"_a, "stream"_a);
    module.def("append_codes", &openinference::append_codes, "keys"_a, "values"_a, "positions"_a, "block_table"_a,
               "key_cache"_a, "value_cache"_a, "stream"_a);
    module.def("expand_pages", &openinference::expand_pages, "key_cache"_a, "value_cache"_a, "blocks"_a, "keys"_a,
               "values"_a, "stream"_a);
    module.def("attend", &openinference::attend, "query"_a, "key_cache"_a, "value_cache"_a, "positions"_a,
               "block_table"_a, "scale"_a, "window"_a, "splits"_a, "warps"_a, "workspace"_a, "counters"_a, "out"_a,
               "stream"_a);
    module.def("project_residual", &openinference::project_residual, "input"_a, "weights"_a,
               "norm_weight"_a, "hidden"_a, "x"_a, "sum_squares"_a, "stream"_a);
    module.def("project_gate_up", &openinference::project_gate_up, "x"_a, "sum_squares"_a, "epsilon"_a,
               "weights"_a, "out"_a, "stream"_a);
    module.def("project", &openinference::project, "x"_a, "sum_squares"_a, "epsilon"_a, "weights"_a, "out"_a,
               "stream"_a);
    module.def("route", &openinference::route, "logits"_a, "positions"_a, "normalises"_a, "first_own"_a, "own"_a,
               "shares"_a, "places"_a, "sources"_a, "visits"_a, "stream"_a);
    module.def("choose_experts", &openinference::choose_experts, "logits"_a, "positions"_a, "normalises"_a,
               "first_own"_a, "own"_a, "shares"_a, "ids"_a, "stream"_a);
    module.def("order_experts", &openinference::order_experts, "ids"_a, "experts"_a, "places"_a, "visits"_a,
               "stream"_a);
    module.def("sort_rows", &openinference::sort_rows, "x"_a, "sum_squares"_a, "epsilon"_a, "places"_a, "weights"_a,
               "sorted"_a, "scales"_a, "stream"_a);
    module.def("expert_gate_up", &openinference::expert_gate_up, "x"_a, "sum_squares"_a, "epsilon"_a, "weights"_a,
               "sources"_a, "visits"_a, "out"_a, "stream"_a);
    module.def("expert_sum", &openinference::expert_sum, "input"_a, "weights"_a, "visits"_a, "shares"_a, "places"_a,
               "norm_weight"_a, "hidden"_a, "x"_a, "sum_squares"_a, "stream"_a);
    module.def("add_experts", &openinference::add_experts, "results"_a, "shares"_a, "places"_a, "norm_weight"_a,
               "hidden"_a, "x"_a, "sum_squares"_a, "stream"_a);
    module.def("choose_token", &openinference::choose_token, "x"_a, "sum_squares"_a, "epsilon"_a,
               "weights"_a, "logits"_a, "tokens"_a, "positions"_a, "best"_a, "counter"_a, "stream"_a);
    module.def("draw_token", &openinference::draw_token, "logits"_a, "tokens"_a, "positions"_a, "rules"_a,
               "biases"_a, "history"_a, "counts"_a, "stream"_a);
    module.def("rate_token", &openinference::rate_token, "logits"_a, "tokens"_a, "positions"_a, "rules"_a, "ratings"_a,
               "stream"_a);
    module.def("update", &openinference::update, "words"_a, "places"_a, "values"_a, "stream"_a);
#ifdef OPENINFERENCE_HAS_HOPPER_OPS
    module.def("attend_prefill", &openinference::attend_prefill, "query"_a, "key_cache"_a, "value_cache"_a,
               "starts"_a, "lengths"_a, "block_table"_a, "max_rows"_a, "scale"_a, "window"_a, "out"_a,
               "stream"_a);
    module.def("prefill_gate_up", &openinference::prefill_gate_up, "x"_a, "scales"_a, "weights"_a, "visits"_a, "out"_a,
               "stream"_a);
    module.def("prefill_down", &openinference::prefill_down, "input"_a, "weights"_a, "visits"_a, "out"_a, "stream"_a);
    module.def(
        "share_memory",
        [](size_t bytes) {
            const auto [address, handle] = openinference::share_memory(bytes);
            return py::make_tuple(address, py::bytes(handle));
        },
        "bytes"_a);
    module.def("map_memory", [](const py::bytes& handle) { return openinference::map_memory(handle); }, "handle"_a);
#endif
    module.def("push_partial", &openinference::push_partial, "input"_a, "weights"_a, "team"_a, "exchange"_a,
               "stream"_a);
    module.def("push_expert_sum", &openinference::push_expert_sum, "input"_a, "weights"_a, "visits"_a, "shares"_a,
               "places"_a, "team"_a, "exchange"_a, "stream"_a);
    module.def("push_experts", &openinference::push_experts, "results"_a, "shares"_a, "places"_a, "team"_a,
               "exchange"_a, "stream"_a);
    module.def("add_partials", &openinference::add_partials, "team"_a, "exchange"_a, "norm_weight"_a, "hidden"_a,
               "x"_a, "sum_squares"_a, "stream"_a);
    module.def("store_part", &openinference::store_part, "input"_a, "weights"_a, "team"_a, "exchange"_a, "stream"_a);
    module.def("add_parts", &openinference::add_parts, "team"_a, "exchange"_a, "norm_weight"_a, "hidden"_a, "x"_a,
               "sum_squares"_a, "stream"_a);
    module.def("push_choice", &openinference::push_choice, "logits"_a, "first"_a, "vocabulary"_a, "tokens"_a,
               "team"_a, "exchange"_a, "counters"_a, "stream"_a);
    module.def("take_choice", &openinference::take_choice, "team"_a, "exchange"_a, "tokens"_a, "positions"_a,
               "stream"_a);
    module.def("push_rows", &openinference::push_rows, "positions"_a, "hidden"_a, "sum_squares"_a, "team"_a,
               "exchange"_a, "stream"_a);
    module.def("take_rows", &openinference::take_rows, "team"_a, "exchange"_a, "norm_weight"_a, "positions"_a,
               "hidden"_a, "x"_a, "sum_squares"_a, "stream"_a);
    module.def("pack_rows", &openinference::pack_rows, "positions"_a, "hidden"_a, "sum_squares"_a, "packed"_a,
               "stream"_a);
    module.def("unpack_rows", &openinference::unpack_rows, "packed"_a, "norm_weight"_a, "positions"_a, "hidden"_a,
               "x"_a, "sum_squares"_a, "stream"_a);
    module.def("end_exchanges", &openinference::end_exchanges, "team"_a, "count"_a, "stream"_a);
    module.def("multiprocessor_count", &openinference::multiprocessor_count,
               "Streaming multiprocessors of the current device.");
}
