// Adding nodes to graphs by hand, reading and changing their parameters.
#include "graph.h"

namespace emu {
namespace {

std::vector<GraphNode*> nodes_of(const Graph& graph, void* const* handles, size_t count) {
    std::vector<GraphNode*> nodes;
    for (size_t n = 0; n < count; ++n) {
        GraphNode& node = find_node(require(handles, "pDependencies")[n]);
        if (node.graph != &graph) fail(hipErrorInvalidValue, "dependency %zu belongs to another graph", n);
        nodes.push_back(&node);
    }
    return nodes;
}

// The common part of all hipGraphAdd...Node calls.
template <typename Make>
int add(const char* call, void** node, void* graph, void* const* dependencies, size_t count, Make&& make) {
    return api(call, [&] {
        require(node, "pGraphNode");
        Graph& g = find_graph(graph);
        std::vector<GraphNode*> before = nodes_of(g, dependencies, count);
        *node = g.add(make(), std::move(before));
    });
}

template <typename Op>
Op& operation_of(void* node, const char* what) {
    Op* const op = dynamic_cast<Op*>(find_node(node).operation.get());
    if (!op) fail(hipErrorInvalidValue, "the node is no %s node", what);
    return *op;
}

template <typename Op>
Op& operation_of(void* exec, void* node, const char* what) {
    Op* const op = dynamic_cast<Op*>(find_exec(exec).step(static_cast<GraphNode*>(node)).operation.get());
    if (!op) fail(hipErrorInvalidValue, "the node is no %s node", what);
    return *op;
}

template <typename Op>
std::shared_ptr<Operation> shared(Op op) { return std::make_shared<Op>(std::move(op)); }

KernelOperation kernel_of(const KernelNodeParams* params) {
    const KernelNodeParams& p = *require(params, "pNodeParams");
    return make_kernel(require(p.func, "func"), p.gridDim, p.blockDim, p.kernelParams, p.extra, p.sharedMemBytes, this_thread().device, false);
}

FillOperation fill_of(const MemsetParams* params) {
    const MemsetParams& p = *require(params, "pMemsetParams");
    return make_fill(p.dst, p.value, p.elementSize, p.width, p.height ? p.height : 1, p.pitch ? p.pitch : p.width * p.elementSize);
}

HostOperation host_of(const HostNodeParams* params) {
    HostOperation op;
    op.function = require(params, "pNodeParams")->fn;
    op.data = params->userData;
    require(reinterpret_cast<void*>(op.function), "fn");
    return op;
}

// A kernel node keeps its memory ranges when only its arguments change and the caller names no new ones.
void replace_kernel(KernelOperation& node, KernelOperation with) {
    if (with.request.ranges.empty()) with.request.ranges = node.request.ranges;
    node = std::move(with);
}

}  // namespace
}  // namespace emu

using namespace emu;

EMU_EXPORT int hipGraphAddKernelNode(void** node, void* graph, void* const* dependencies, size_t count, const KernelNodeParams* params) {
    return add("hipGraphAddKernelNode", node, graph, dependencies, count, [&] { return shared(kernel_of(params)); });
}
EMU_EXPORT int hipGraphKernelNodeGetParams(void* node, KernelNodeParams* params) {
    return api("hipGraphKernelNodeGetParams", [&] {
        const KernelOperation& op = operation_of<KernelOperation>(node, "kernel");
        // Arguments are kept as bytes; the pointers that they came from may be gone.
        *require(params, "pNodeParams") = KernelNodeParams{op.request.block, nullptr, op.function, op.request.grid, nullptr, op.request.dynamic_lds};
    });
}
EMU_EXPORT int hipGraphKernelNodeSetParams(void* node, const KernelNodeParams* params) {
    return api("hipGraphKernelNodeSetParams", [&] { replace_kernel(operation_of<KernelOperation>(node, "kernel"), kernel_of(params)); });
}
EMU_EXPORT int hipGraphExecKernelNodeSetParams(void* exec, void* node, const KernelNodeParams* params) {
    return api("hipGraphExecKernelNodeSetParams", [&] { replace_kernel(operation_of<KernelOperation>(exec, node, "kernel"), kernel_of(params)); });
}

EMU_EXPORT int hipGraphAddMemcpyNode1D(void** node, void* graph, void* const* dependencies, size_t count, void* to, const void* from, size_t bytes, int kind) {
    return add("hipGraphAddMemcpyNode1D", node, graph, dependencies, count, [&] { return shared(make_copy(to, from, bytes, kind)); });
}
EMU_EXPORT int hipGraphMemcpyNodeSetParams1D(void* node, void* to, const void* from, size_t bytes, int kind) {
    return api("hipGraphMemcpyNodeSetParams1D", [&] { operation_of<CopyOperation>(node, "memcpy") = make_copy(to, from, bytes, kind); });
}
EMU_EXPORT int hipGraphExecMemcpyNodeSetParams1D(void* exec, void* node, void* to, const void* from, size_t bytes, int kind) {
    return api("hipGraphExecMemcpyNodeSetParams1D", [&] { operation_of<CopyOperation>(exec, node, "memcpy") = make_copy(to, from, bytes, kind); });
}
EMU_EXPORT int hipGraphAddMemcpyNode(void** node, void* graph, void* const* dependencies, size_t count, const Memcpy3DParams* params) {
    return add("hipGraphAddMemcpyNode", node, graph, dependencies, count, [&] { return shared(make_copy_3d(*require(params, "pCopyParams"))); });
}
EMU_EXPORT int hipGraphMemcpyNodeSetParams(void* node, const Memcpy3DParams* params) {
    return api("hipGraphMemcpyNodeSetParams", [&] { operation_of<CopyOperation>(node, "memcpy") = make_copy_3d(*require(params, "pNodeParams")); });
}

EMU_EXPORT int hipGraphAddMemsetNode(void** node, void* graph, void* const* dependencies, size_t count, const MemsetParams* params) {
    return add("hipGraphAddMemsetNode", node, graph, dependencies, count, [&] { return shared(fill_of(params)); });
}
EMU_EXPORT int hipGraphMemsetNodeGetParams(void* node, MemsetParams* params) {
    return api("hipGraphMemsetNodeGetParams", [&] {
        const FillOperation& op = operation_of<FillOperation>(node, "memset");
        *require(params, "pNodeParams") = MemsetParams{op.to, op.element_bytes, op.rows, op.pitch, op.value, op.width};
    });
}
EMU_EXPORT int hipGraphMemsetNodeSetParams(void* node, const MemsetParams* params) {
    return api("hipGraphMemsetNodeSetParams", [&] { operation_of<FillOperation>(node, "memset") = fill_of(params); });
}
EMU_EXPORT int hipGraphExecMemsetNodeSetParams(void* exec, void* node, const MemsetParams* params) {
    return api("hipGraphExecMemsetNodeSetParams", [&] { operation_of<FillOperation>(exec, node, "memset") = fill_of(params); });
}

EMU_EXPORT int hipGraphAddHostNode(void** node, void* graph, void* const* dependencies, size_t count, const HostNodeParams* params) {
    return add("hipGraphAddHostNode", node, graph, dependencies, count, [&] { return shared(host_of(params)); });
}
EMU_EXPORT int hipGraphHostNodeSetParams(void* node, const HostNodeParams* params) {
    return api("hipGraphHostNodeSetParams", [&] { operation_of<HostOperation>(node, "host") = host_of(params); });
}
EMU_EXPORT int hipGraphAddEmptyNode(void** node, void* graph, void* const* dependencies, size_t count) {
    return add("hipGraphAddEmptyNode", node, graph, dependencies, count, [&] { return shared(EmptyOperation()); });
}
EMU_EXPORT int hipGraphAddChildGraphNode(void** node, void* graph, void* const* dependencies, size_t count, void* child) {
    return add("hipGraphAddChildGraphNode", node, graph, dependencies, count, [&] {
        ChildOperation op;
        op.graph = find_graph(child).clone();
        return shared(std::move(op));
    });
}
EMU_EXPORT int hipGraphChildGraphNodeGetGraph(void* node, void** graph) {
    return api("hipGraphChildGraphNodeGetGraph", [&] { *require(graph, "pGraph") = operation_of<ChildOperation>(node, "child graph").graph.get(); });
}
EMU_EXPORT int hipGraphAddEventRecordNode(void** node, void* graph, void* const* dependencies, size_t count, void* event) {
    return add("hipGraphAddEventRecordNode", node, graph, dependencies, count, [&] {
        EventOperation op;
        find_event(event);
        op.event = event;
        return shared(op);
    });
}
EMU_EXPORT int hipGraphAddEventWaitNode(void** node, void* graph, void* const* dependencies, size_t count, void* event) {
    return add("hipGraphAddEventWaitNode", node, graph, dependencies, count, [&] {
        EventOperation op;
        find_event(event);
        op.event = event;
        op.records = false;
        return shared(op);
    });
}
