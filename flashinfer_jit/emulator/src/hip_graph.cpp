// Graphs: building, copying, instantiating, updating, launching.
#include "graph.h"

#include <mutex>
#include <unordered_map>
#include <unordered_set>

namespace emu {
namespace {

struct Handles {
    std::mutex mutex;
    std::unordered_set<void*> graphs, nodes, execs;
};
Handles& handles() {
    static Handles* const instance = [] {
        auto* made = new Handles;
        guard_innermost(made->mutex);
        return made;
    }();
    return *instance;
}

template <typename T>
T& find(std::unordered_set<void*> Handles::* kind, void* handle, const char* what) {
    std::lock_guard<std::mutex> lock(handles().mutex);
    if (!(handles().*kind).count(handle)) fail(hipErrorInvalidValue, "%p is no %s, or was destroyed", handle, what);
    return *static_cast<T*>(handle);
}

GraphExec* instantiate(const Graph& graph, uint64_t flags) {
    auto exec = std::make_unique<GraphExec>();
    exec->flags = flags;
    for (const GraphNode* n : graph.ordered()) exec->steps.push_back({n, n->operation->clone(), true});
    std::lock_guard<std::mutex> lock(handles().mutex);
    handles().execs.insert(exec.get());
    return exec.release();
}

// Copies handles to a caller's array of *count entries, or only counts where there is no array.
void give(const std::vector<GraphNode*>& nodes, void** out, size_t* count) {
    require(count, "the number of nodes");
    if (out)
        for (size_t n = 0; n < *count; ++n) out[n] = n < nodes.size() ? nodes[n] : nullptr;
    if (!out || *count > nodes.size()) *count = nodes.size();
}

std::vector<GraphNode*> dependents(const GraphNode& node) {
    std::vector<GraphNode*> found;
    for (const auto& other : node.graph->nodes)
        if (std::find(other->dependencies.begin(), other->dependencies.end(), &node) != other->dependencies.end()) found.push_back(other.get());
    return found;
}

// Where each node of a clone came from, for hipGraphNodeFindInClone.
std::unordered_map<const Graph*, std::unordered_map<const GraphNode*, GraphNode*>>& clone_origins() {
    static auto* const map = new std::unordered_map<const Graph*, std::unordered_map<const GraphNode*, GraphNode*>>;
    return *map;
}

}  // namespace

Capture::Capture() = default;
Capture::~Capture() = default;

Graph::~Graph() {
    std::lock_guard<std::mutex> lock(handles().mutex);
    handles().graphs.erase(this);
    for (const auto& n : nodes) handles().nodes.erase(n.get());
    clone_origins().erase(this);
}

GraphNode* Graph::add(std::shared_ptr<Operation> operation, std::vector<GraphNode*> dependencies) {
    nodes.emplace_back(new GraphNode{this, std::move(operation), std::move(dependencies)});
    std::lock_guard<std::mutex> lock(handles().mutex);
    handles().nodes.insert(nodes.back().get());
    return nodes.back().get();
}

std::vector<GraphNode*> Graph::ordered() const {
    std::vector<GraphNode*> order;
    std::unordered_set<const GraphNode*> placed;
    while (order.size() < nodes.size()) {
        const size_t before = order.size();
        for (const auto& n : nodes) {
            if (placed.count(n.get())) continue;
            const bool ready = std::all_of(n->dependencies.begin(), n->dependencies.end(), [&](const GraphNode* d) { return placed.count(d) != 0; });
            if (!ready) continue;
            order.push_back(n.get());
            placed.insert(n.get());
        }
        if (order.size() == before) fail(hipErrorInvalidValue, "the graph's dependencies form a cycle");
    }
    return order;
}

std::unique_ptr<Graph> Graph::clone(std::vector<GraphNode*>* copies) const {
    auto made = std::make_unique<Graph>();
    std::unordered_map<const GraphNode*, GraphNode*> copy_of;
    for (const auto& n : nodes) copy_of[n.get()] = made->add(n->operation->clone(), {});
    for (const auto& n : nodes)
        for (GraphNode* d : n->dependencies) copy_of[n.get()]->dependencies.push_back(copy_of.at(d));
    if (copies)
        for (const auto& n : nodes) copies->push_back(copy_of[n.get()]);
    return made;
}

GraphExec::Step& GraphExec::step(const GraphNode* origin) {
    for (Step& s : steps)
        if (s.origin == origin) return s;
    fail(hipErrorInvalidValue, "the node is not one of the graph that was instantiated");
}

void GraphExec::run() {
    for (const Step& s : steps)
        if (s.enabled) s.operation->run();
}

void ChildOperation::run() {
    for (const GraphNode* n : graph->ordered()) n->operation->run();
}
std::shared_ptr<Operation> ChildOperation::clone() const {
    auto copy = std::make_shared<ChildOperation>();
    copy->graph = graph->clone();
    return copy;
}

GraphMemory::~GraphMemory() {
    try {
        free_device_memory(pointer);
    } catch (const Failure&) {
        // Freed by the caller already.
    }
}

Graph& find_graph(void* handle) { return find<Graph>(&Handles::graphs, handle, "graph"); }
GraphNode& find_node(void* handle) { return find<GraphNode>(&Handles::nodes, handle, "graph node"); }
GraphExec& find_exec(void* handle) { return find<GraphExec>(&Handles::execs, handle, "executable graph"); }

void* publish(std::unique_ptr<Graph> graph) {
    std::lock_guard<std::mutex> lock(handles().mutex);
    handles().graphs.insert(graph.get());
    return graph.release();
}

}  // namespace emu

using namespace emu;

EMU_EXPORT int hipGraphCreate(void** graph, uint32_t flags) {
    return api("hipGraphCreate", [&] {
        if (flags) fail(hipErrorInvalidValue, "flags must be 0, not %u", flags);
        *require(graph, "pGraph") = publish(std::make_unique<Graph>());
    });
}
EMU_EXPORT int hipGraphDestroy(void* graph) {
    return api("hipGraphDestroy", [&] { delete &find_graph(graph); });
}
EMU_EXPORT int hipGraphClone(void** clone, void* graph) {
    return api("hipGraphClone", [&] {
        require(clone, "pGraphClone");
        const Graph& original = find_graph(graph);
        std::vector<GraphNode*> copies;
        std::unique_ptr<Graph> made = original.clone(&copies);
        const Graph* const raw = made.get();
        *clone = publish(std::move(made));
        std::lock_guard<std::mutex> lock(handles().mutex);
        for (size_t n = 0; n < copies.size(); ++n) clone_origins()[raw][original.nodes[n].get()] = copies[n];
    });
}
EMU_EXPORT int hipGraphNodeFindInClone(void** node, void* original, void* clone) {
    return api("hipGraphNodeFindInClone", [&] {
        require(node, "pNode");
        const Graph& graph = find_graph(clone);
        std::lock_guard<std::mutex> lock(handles().mutex);
        const auto& origins = clone_origins()[&graph];
        const auto at = origins.find(static_cast<GraphNode*>(original));
        if (at == origins.end()) fail(hipErrorInvalidValue, "the graph holds no copy of the node");
        *node = at->second;
    });
}
EMU_EXPORT int hipGraphGetNodes(void* graph, void** nodes, size_t* count) {
    return api("hipGraphGetNodes", [&] {
        std::vector<GraphNode*> all;
        for (const auto& n : find_graph(graph).nodes) all.push_back(n.get());
        give(all, nodes, count);
    });
}
EMU_EXPORT int hipGraphGetRootNodes(void* graph, void** nodes, size_t* count) {
    return api("hipGraphGetRootNodes", [&] {
        std::vector<GraphNode*> roots;
        for (const auto& n : find_graph(graph).nodes)
            if (n->dependencies.empty()) roots.push_back(n.get());
        give(roots, nodes, count);
    });
}
EMU_EXPORT int hipGraphGetEdges(void* graph, void** from, void** to, size_t* count) {
    return api("hipGraphGetEdges", [&] {
        std::vector<GraphNode*> sources, targets;
        for (const auto& n : find_graph(graph).nodes)
            for (GraphNode* d : n->dependencies) sources.push_back(d), targets.push_back(n.get());
        size_t places = *require(count, "numEdges");
        give(sources, from, &places);
        give(targets, to, count);
    });
}
EMU_EXPORT int hipGraphNodeGetType(void* node, int* type) {
    return api("hipGraphNodeGetType", [&] { *require(type, "pType") = static_cast<int>(find_node(node).operation->type()); });
}
EMU_EXPORT int hipGraphNodeGetDependencies(void* node, void** nodes, size_t* count) {
    return api("hipGraphNodeGetDependencies", [&] { give(find_node(node).dependencies, nodes, count); });
}
EMU_EXPORT int hipGraphNodeGetDependentNodes(void* node, void** nodes, size_t* count) {
    return api("hipGraphNodeGetDependentNodes", [&] { give(dependents(find_node(node)), nodes, count); });
}
EMU_EXPORT int hipGraphAddDependencies(void* graph, void* const* from, void* const* to, size_t count) {
    return api("hipGraphAddDependencies", [&] {
        const Graph& g = find_graph(graph);
        for (size_t n = 0; n < count; ++n) {
            GraphNode &source = find_node(require(from, "from")[n]), &target = find_node(require(to, "to")[n]);
            if (source.graph != &g || target.graph != &g || &source == &target) fail(hipErrorInvalidValue, "edge %zu does not join two nodes of the graph", n);
            if (std::find(target.dependencies.begin(), target.dependencies.end(), &source) == target.dependencies.end()) target.dependencies.push_back(&source);
        }
    });
}
EMU_EXPORT int hipGraphRemoveDependencies(void* graph, void* const* from, void* const* to, size_t count) {
    return api("hipGraphRemoveDependencies", [&] {
        find_graph(graph);
        for (size_t n = 0; n < count; ++n) {
            GraphNode &source = find_node(require(from, "from")[n]), &target = find_node(require(to, "to")[n]);
            auto& d = target.dependencies;
            d.erase(std::remove(d.begin(), d.end(), &source), d.end());
        }
    });
}
EMU_EXPORT int hipGraphDestroyNode(void* handle) {
    return api("hipGraphDestroyNode", [&] {
        GraphNode& node = find_node(handle);
        Graph& graph = *node.graph;
        for (GraphNode* other : dependents(node)) {
            auto& d = other->dependencies;
            d.erase(std::remove(d.begin(), d.end(), &node), d.end());
        }
        {
            std::lock_guard<std::mutex> lock(handles().mutex);
            handles().nodes.erase(handle);
        }
        graph.nodes.erase(std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const auto& n) { return n.get() == &node; }));
    });
}

EMU_EXPORT int hipGraphInstantiate(void** exec, void* graph, void** error_node, char* log, size_t log_bytes) {
    return api("hipGraphInstantiate", [&] {
        if (error_node) *error_node = nullptr;
        if (log && log_bytes) *log = '\0';
        *require(exec, "pGraphExec") = instantiate(find_graph(graph), 0);
    });
}
EMU_EXPORT int hipGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
    return api("hipGraphInstantiateWithFlags", [&] { *require(exec, "pGraphExec") = instantiate(find_graph(graph), flags); });
}
EMU_EXPORT int hipGraphExecDestroy(void* handle) {
    return api("hipGraphExecDestroy", [&] {
        GraphExec& exec = find_exec(handle);
        {
            std::lock_guard<std::mutex> lock(handles().mutex);
            handles().execs.erase(handle);
        }
        delete &exec;
    });
}
EMU_EXPORT int hipGraphExecGetFlags(void* exec, unsigned long long* flags) {
    return api("hipGraphExecGetFlags", [&] { *require(flags, "flags") = find_exec(exec).flags; });
}
EMU_EXPORT int hipGraphUpload(void* exec, void* stream) {
    return api("hipGraphUpload", [&] { find_exec(exec), find_stream(stream); });
}
EMU_EXPORT int hipGraphLaunch(void* handle, void* stream_handle) {
    return api("hipGraphLaunch", [&] {
        GraphExec& exec = find_exec(handle);
        Stream& stream = find_stream(stream_handle);
        if (is_capturing(stream)) {
            // The launch becomes a child graph of the one that is being captured.
            auto child = std::make_shared<ChildOperation>();
            child->graph = std::make_shared<Graph>();
            GraphNode* last = nullptr;
            for (const GraphExec::Step& s : exec.steps)
                if (s.enabled) last = child->graph->add(s.operation->clone(), last ? std::vector<GraphNode*>{last} : std::vector<GraphNode*>{});
            record(stream, child);
            return;
        }
        check_legacy_use(stream);
        device_state(stream.device).check();
        exec.run();
    });
}
EMU_EXPORT int hipGraphExecUpdate(void* handle, void* graph, void** error_node, int* result) {
    return api("hipGraphExecUpdate", [&] {
        GraphExec& exec = find_exec(handle);
        if (error_node) *error_node = nullptr;
        const std::vector<GraphNode*> order = find_graph(graph).ordered();
        const auto refuse = [&](int why, GraphNode* node, const char* text) {
            if (result) *result = why;
            if (error_node) *error_node = node;
            fail(hipErrorGraphExecUpdateFailure, "%s", text);
        };
        if (order.size() != exec.steps.size()) refuse(2, nullptr, "the graphs have different numbers of nodes");
        for (size_t n = 0; n < order.size(); ++n)
            if (order[n]->operation->type() != exec.steps[n].operation->type()) refuse(3, order[n], "a node is of another type");
        for (size_t n = 0; n < order.size(); ++n) exec.steps[n].operation = order[n]->operation->clone(), exec.steps[n].origin = order[n];
        if (result) *result = 0;
    });
}
EMU_EXPORT int hipGraphNodeSetEnabled(void* exec, void* node, uint32_t enabled) {
    return api("hipGraphNodeSetEnabled", [&] { find_exec(exec).step(static_cast<GraphNode*>(node)).enabled = enabled != 0; });
}
EMU_EXPORT int hipGraphNodeGetEnabled(void* exec, void* node, uint32_t* enabled) {
    return api("hipGraphNodeGetEnabled", [&] { *require(enabled, "isEnabled") = find_exec(exec).step(static_cast<GraphNode*>(node)).enabled; });
}
