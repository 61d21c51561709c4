// Graphs of captured or explicitly added work, and their executable copies.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "stream.h"

namespace emu {

struct GraphNode {
    Graph* graph = nullptr;
    std::shared_ptr<Operation> operation;
    std::vector<GraphNode*> dependencies;
};

struct Graph {
    std::vector<std::unique_ptr<GraphNode>> nodes;   // in the order in which they were added
    ~Graph();
    GraphNode* add(std::shared_ptr<Operation> operation, std::vector<GraphNode*> dependencies);
    // In an order that respects the dependencies, otherwise as added. Throws Failure where they form a cycle.
    std::vector<GraphNode*> ordered() const;
    // A deep copy; copies[n] becomes the copy of node n.
    std::unique_ptr<Graph> clone(std::vector<GraphNode*>* copies = nullptr) const;
};

struct GraphExec {
    struct Step { const GraphNode* origin; std::shared_ptr<Operation> operation; bool enabled; };
    std::vector<Step> steps;
    uint64_t flags = 0;
    Step& step(const GraphNode* origin);   // throws Failure for a node of another graph
    void run();
};

struct EmptyOperation : Operation {
    void run() override {}
    NodeType type() const override { return NodeType::empty; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<EmptyOperation>(*this); }
};

struct ChildOperation : Operation {
    std::shared_ptr<Graph> graph;
    void run() override;
    NodeType type() const override { return NodeType::child; }
    std::shared_ptr<Operation> clone() const override;
};

struct EventOperation : Operation {
    void* event = nullptr;
    bool records = true;
    void run() override;
    NodeType type() const override { return records ? NodeType::record_event : NodeType::wait_event; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<EventOperation>(*this); }
};

// Memory that a captured hipMallocAsync gave: it lives as long as the graph and its copies, at one address.
struct GraphMemory {
    void* pointer = nullptr;
    ~GraphMemory();
};
struct MemoryOperation : Operation {
    std::shared_ptr<GraphMemory> memory;
    bool frees = false;
    void run() override {}
    NodeType type() const override { return frees ? NodeType::mem_free : NodeType::mem_alloc; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<MemoryOperation>(*this); }
};

Graph& find_graph(void* handle);
GraphNode& find_node(void* handle);
GraphExec& find_exec(void* handle);
// Makes a graph known to the API and gives it its handle.
void* publish(std::unique_ptr<Graph> graph);

// hip_memory.cpp
CopyOperation make_copy(void* to, const void* from, uint64_t bytes, int kind);
CopyOperation make_copy_2d(void* to, uint64_t to_pitch, const void* from, uint64_t from_pitch, uint64_t width, uint64_t rows, int kind);
CopyOperation make_copy_3d(const Memcpy3DParams& params);
FillOperation make_fill(void* to, uint32_t value, uint32_t element_bytes, uint64_t width, uint64_t rows, uint64_t pitch);
void* allocate_device_memory(uint64_t bytes, int device);
void free_device_memory(void* pointer);
// hip_launch.cpp
KernelOperation make_kernel(void* function, Dim3 grid, Dim3 block, void* const* arguments, void* const* extra, uint64_t dynamic_lds, int device, bool cooperative);

}  // namespace emu
