// CUDA devices in host memory, for a CPU build of torch. Tensors carry cuda:N; every operation goes
// through the CUDA dispatch key to its CPU kernel. What a GPU refuses is refused, what makes the host
// wait is reported, and memory can run out. Numbers are the CPU's, and nothing here tells a time.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>

namespace {
using at::Tensor;
using c10::Device;
using Index = c10::DeviceIndex;
using Names = std::set<std::string>;

constexpr Index kDevices = 2;
constexpr auto kCUDAKey = c10::DispatchKey::CUDA;
thread_local Index current = 0;

Index exchange(Index index) {
  TORCH_CHECK(index < kDevices, "CUDA error: invalid device ordinal");
  const Index previous = current;
  if (index >= 0) current = index;
  return previous;
}

// The current device for a while.
struct Current {
  const Index before;
  explicit Current(Index index) : before(exchange(index)) {}
  explicit Current(std::optional<Device> device) : Current(device ? device->index() : Index(-1)) {}
  ~Current() { current = before; }
};

// ------------------------------------------------------------------------------------- reports
// Called with "operation", "copy" or "wait" and a name. Python counts, and knows the line.
using Report = void (*)(const char* kind, const char* name);
std::atomic<Report> reporter{nullptr};
std::atomic<bool> waits_are_errors{false};

void report(const char* kind, const std::string& name) {
  if (auto* call = reporter.load()) call(kind, name.c_str());
}
void wait(const std::string& name) {
  report("wait", name);
  TORCH_CHECK(!waits_are_errors, "called a synchronizing CUDA operation: ", name);
}

// -------------------------------------------------------------------------------------- memory
std::atomic<int64_t> live{0}, peak{0}, limit{0};

struct Block { void* memory; int64_t bytes; };

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  live -= block->bytes;
  std::free(block->memory);
  delete block;
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (limit && live + static_cast<int64_t>(bytes) > limit)
      throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "CUDA out of memory.");
    void* memory = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    live += static_cast<int64_t>(bytes);
    peak = std::max(peak.load(), live.load());
    auto* block = new Block{memory, static_cast<int64_t>(bytes)};
    return {memory, block, &release, Device(c10::kCUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
} device_memory;

std::mutex pinned_lock;
std::map<uintptr_t, size_t> pinned_blocks;

void release_pinned(void* memory) {
  const std::lock_guard<std::mutex> hold(pinned_lock);
  pinned_blocks.erase(reinterpret_cast<uintptr_t>(memory));
  std::free(memory);
}
bool is_pinned(const void* pointer) {
  const std::lock_guard<std::mutex> hold(pinned_lock);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = pinned_blocks.upper_bound(address);
  return after != pinned_blocks.begin() && address < (--after)->first + after->second;
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const size_t size = std::max<size_t>(64, (bytes + 63) / 64 * 64);
    void* memory = std::aligned_alloc(64, size);
    const std::lock_guard<std::mutex> hold(pinned_lock);
    pinned_blocks[reinterpret_cast<uintptr_t>(memory)] = size;
    return {memory, memory, &release_pinned, Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
} pinned_memory;

// --------------------------------------------------------------- what torch asks of its devices
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  Device exchangeDevice(Device d) const override { return {c10::kCUDA, exchange(d.index())}; }
  Device getDevice() const override { return {c10::kCUDA, current}; }
  void setDevice(Device d) const override { exchange(d.index()); }
  void uncheckedSetDevice(Device d) const noexcept override { current = std::max<Index>(0, d.index()); }
  c10::Stream getStream(Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  Index deviceCount() const noexcept override { return kDevices; }
  void record(void**, const c10::Stream&, Index, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(Index) const override { return true; }
  Index deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  Index current_device() const override { return current; }
  Index getCurrentDevice() const override { return current; }
  void setCurrentDevice(Index index) const override { exchange(index); }
  Index exchangeDevice(Index index) const override { return exchange(index); }
  Index maybeExchangeDevice(Index index) const override { return exchange(index); }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  at::Allocator* getCUDADeviceAllocator() const override { return &device_memory; }
  Device getDeviceFromPtr(void*) const override { return {c10::kCUDA, current}; }
  void deviceSynchronize(Index) const override {}
};

// --------------------------------------------------------------------- between host and device
// The same memory as a tensor of the host.
Tensor on_host(const Tensor& tensor) {
  const auto options = tensor.options().device(c10::kCPU).requires_grad(false);
  if (!tensor.numel()) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  const c10::Storage kept = tensor.storage();
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), [kept](void*) {}, options);
}
Tensor on_device(const Tensor& host, Index index) {
  const auto options = host.options().device(Device(c10::kCUDA, index));
  auto made = host.is_non_overlapping_and_dense()
      ? at::empty_strided(host.sizes(), host.strides(), options) : at::empty(host.sizes(), options);
  on_host(made).copy_(host);
  return made;
}

// ------------------------------------------------------------------------------ what CUDA does
// Operations whose result's shape or success the host must know, with the times that it waits.
// torch.bincount reads the smallest and the largest number (aten/native/cuda/SummaryOps.cu).
const std::map<std::string, int> kWaits = {
    {"nonzero", 1}, {"masked_select", 1}, {"_unique", 1}, {"_unique2", 1}, {"unique_dim", 1},
    {"unique_consecutive", 1}, {"unique_dim_consecutive", 1}, {"bincount", 2}, {"equal", 1},
    {"_linalg_eigh", 1}, {"_linalg_svd", 1}, {"linalg_lstsq", 1}, {"linalg_eig", 1}};
// Their kernels take tensors of one device, also where one is a number (0-dimensional) of the host.
const Names kOneDevice = {
    "cat", "mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "gather", "scatter",
    "scatter_add", "scatter_reduce", "index_select", "index_add", "searchsorted", "bucketize", "take",
    "embedding", "native_layer_norm", "native_batch_norm", "sort", "topk"};
const Names kProducts = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "addr"};
const Names kHostOnly = {"histogram", "_histogramdd_from_bin_cts", "_histogramdd_bin_edges"};
// Refused on floats by torch.use_deterministic_algorithms; bincount with weights alone.
const Names kNondeterministic = {"bincount", "cumsum", "cumprod", "histc", "kthvalue", "median"};

struct Call {
  const c10::FunctionSchema& schema;
  std::vector<c10::IValue> arguments;
  std::string full, name;  // aten::index_put_ and index_put

  Call(const c10::OperatorHandle& op, const torch::jit::Stack& stack)
      : schema(op.schema()), arguments(stack.end() - schema.arguments().size(), stack.end()),
        full(schema.operator_name().name), name(full.substr(full.find("::") + 2)) {
    while (name.size() > 1 && name.back() == '_') name.pop_back();
  }
  // Every defined tensor with the position of its argument.
  std::vector<std::pair<size_t, Tensor>> tensors() const {
    std::vector<std::pair<size_t, Tensor>> found;
    for (size_t i = 0; i < arguments.size(); i++) {
      const auto& value = arguments[i];
      if (value.isTensor()) found.emplace_back(i, value.toTensor());
      else if (value.isTensorList())
        for (const Tensor tensor : value.toTensorList()) found.emplace_back(i, tensor);
      else if (value.isOptionalTensorList())
        for (const std::optional<Tensor> tensor : value.toOptionalTensorList())
          if (tensor) found.emplace_back(i, *tensor);
    }
    std::erase_if(found, [](const auto& entry) { return !entry.second.defined(); });
    return found;
  }
  const c10::IValue* argument(const std::string& wanted) const {
    for (size_t i = 0; i < arguments.size(); i++)
      if (schema.arguments()[i].name() == wanted) return &arguments[i];
    return nullptr;
  }
};

Device device_of(const Call& call) {
  std::optional<Device> device;
  for (const auto& [i, tensor] : call.tensors()) if (tensor.is_cuda()) {
    TORCH_CHECK(!device || *device == tensor.device(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                *device, " and ", tensor.device(), "! (", call.full, ")");
    device = tensor.device();
  }
  if (device)
    for (const auto& [i, tensor] : call.tensors()) {
      const bool is_index = call.arguments[i].isOptionalTensorList();
      const bool is_number = tensor.dim() == 0 && !kOneDevice.count(call.name);
      TORCH_CHECK(tensor.is_cuda() || is_index || is_number,
                  "Expected all tensors to be on the same device, but found at least two devices, ",
                  *device, " and cpu! (", call.full, ", ", call.schema.arguments()[i].name(), ")");
    }
  for (const auto& value : call.arguments)
    if (!device && value.isDevice() && value.toDevice().has_index()) device = value.toDevice();
  return device.value_or(Device(c10::kCUDA, current));
}

void refuse_what_cuda_lacks(const Call& call) {
  TORCH_CHECK(!kHostOnly.count(call.name), "Could not run '", call.full, "' on the 'CUDA' backend.");
  bool floats = false;
  for (const auto& [i, tensor] : call.tensors()) {
    TORCH_CHECK(!kProducts.count(call.name) || !c10::isIntegralType(tensor.scalar_type(), true), '"',
                call.full, "_cuda\" not implemented for '", c10::toString(tensor.scalar_type()), "'");
    floats = floats || tensor.is_floating_point();
  }
  if (kNondeterministic.count(call.name) && floats)
    at::globalContext().alertNotDeterministic(call.name + "_cuda");
  for (const auto& value : call.arguments)
    TORCH_CHECK(!value.isGenerator() || value.toGenerator().device().is_cuda(),
                "Expected a 'cuda' device type for generator but found 'cpu' (", call.full, ")");
}

void report_waits(const Call& call) {
  const auto found = kWaits.find(call.name);
  for (int i = 0; found != kWaits.end() && i < found->second; i++) wait(call.full);
  if (call.name == "repeat_interleave") {
    const auto* size = call.argument("output_size");
    if (!size || size->isNone()) wait(call.full + " without output_size");
  }
  // Indices on the host are copied, and a mask is turned into numbers: by operations of their own,
  // seen on their own, where they read; unseen where they write. One number is a masked_fill.
  const auto* values = call.argument("values");
  const bool fills = values && values->toTensor().numel() == 1 && values->toTensor().is_cpu();
  for (const auto& [i, tensor] : call.tensors()) if (call.arguments[i].isOptionalTensorList()) {
    const bool mask = tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
    if (values && !tensor.is_cuda()) wait(call.full + " with an index on the host");
    if (mask && values && !fills) wait(call.full + " with a boolean mask");
  }
}

c10::IValue to_host(const c10::IValue& value) {
  const auto moved = [](const Tensor& t) { return t.defined() && t.is_cuda() ? on_host(t) : t; };
  if (value.isTensor()) return moved(value.toTensor());
  if (value.isDevice()) return Device(c10::kCPU);
  if (value.isGenerator()) return {};
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor tensor : value.toTensorList()) list.push_back(moved(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor> tensor : value.toOptionalTensorList())
      list.push_back(tensor ? std::optional<Tensor>(moved(*tensor)) : tensor);
    return list;
  }
  return value;
}

const Tensor& resized(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  if (self.sizes() == size) return self;
  const auto wanted = (c10::multiply_integers(size) + self.storage_offset()) * self.element_size();
  if (wanted > self.storage().nbytes()) {
    auto* storage = self.storage().unsafeGetStorageImpl();
    auto larger = device_memory.allocate(wanted);
    if (storage->nbytes()) memcpy(larger.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr(std::move(larger));
    storage->set_nbytes(wanted);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Call call(op, *stack);
  const Device device = device_of(call);
  const Current during(device.index());
  refuse_what_cuda_lacks(call);
  report_waits(call);
  report("operation", call.full);

  const size_t count = call.arguments.size(), begin = stack->size() - count;
  for (size_t i = 0; i < count; i++) (*stack)[begin + i] = to_host(call.arguments[i]);
  const std::vector<c10::IValue> given(stack->begin() + begin, stack->end());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  const auto& arguments = call.schema.arguments();
  const auto written = [&](const c10::AliasInfo* info) -> std::optional<size_t> {
    for (size_t i = 0; info && info->isWrite() && i < count; i++)
      if (arguments[i].alias_info() && *arguments[i].alias_info() == *info) return i;
    return std::nullopt;
  };
  // An empty output was made larger.
  for (size_t i = 0; i < count; i++) {
    const auto* info = arguments[i].alias_info();
    if (!info || !info->isWrite() || !given[i].isTensor()) continue;
    const Tensor &own = call.arguments[i].toTensor(), &host = given[i].toTensor();
    if (!own.defined() || own.sizes() == host.sizes()) continue;
    resized(own, host.sizes(), std::nullopt);
    on_host(own).copy_(host);
  }
  const auto moved = [&](const Tensor& t) {
    return t.defined() && t.is_cpu() ? on_device(t, device.index()) : t;
  };
  const auto& returns = call.schema.returns();
  for (size_t i = 0; i < returns.size(); i++) {
    auto& value = (*stack)[stack->size() - returns.size() + i];
    if (const auto argument = written(returns[i].alias_info())) value = call.arguments[*argument];
    else if (value.isTensor()) value = moved(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor tensor : value.toTensorList()) list.push_back(moved(tensor));
      value = list;
    }
  }
}

// --------------------------------------------------------- what is not the work of a CPU kernel
Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  const Current during(device);
  return at::detail::empty_generic(
      size, &device_memory, c10::DispatchKeySet(kCUDAKey), c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  const Current during(device);
  return at::detail::empty_strided_generic(
      size, stride, &device_memory, c10::DispatchKeySet(kCUDAKey), c10::dtype_or_default(dtype));
}
Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  if (self.is_cuda() && source.is_cuda()) {
    report("operation", "aten::copy_");
  } else {
    const Tensor& host = self.is_cuda() ? source : self;
    const bool pinned = !host.numel() || is_pinned(host.const_data_ptr());
    const std::string name = std::string(self.is_cuda() ? "copy to the device" : "copy to the host") +
        (pinned ? "" : " from pageable memory");
    report("copy", name);
    if (!non_blocking) wait(name);
  }
  (self.is_cuda() ? on_host(self) : self).copy_(source.is_cuda() ? on_host(source) : source);
  return self;
}
at::Scalar number_of(const Tensor& self) {
  wait("aten::_local_scalar_dense");
  return at::_local_scalar_dense(on_host(self));
}
Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                    c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (stride.empty()) {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride, offset);
  }
  return self;
}
Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}
void record_stream(Tensor&, c10::Stream) {}
}  // namespace

namespace at {
using CUDAHooks = Hooks;  // the name that torch looks for
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  // One operation each, as in cuDNN: torch would choose kernels that a CPU build does not have.
  library.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  library.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("copy_", TORCH_FN(copy));
  library.impl("_local_scalar_dense", TORCH_FN(number_of));
  library.impl("resize_", TORCH_FN(resized));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  library.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  library.impl("record_stream", TORCH_FN(record_stream));
}

// ------------------------------------------------------------------------- what Python steers
extern "C" {
void simulated_start() { c10::SetAllocator(c10::kCUDA, &device_memory, 9); }
void simulated_report(Report call) { reporter = call; }
void simulated_waits_are_errors(bool on) { waits_are_errors = on; }
bool simulated_are_waits_errors() { return waits_are_errors; }
int simulated_devices() { return kDevices; }
int simulated_current() { return current; }
int simulated_exchange(int index) { return index < kDevices ? exchange(static_cast<Index>(index)) : -1; }
void simulated_limit(int64_t bytes) { limit = bytes ? live + bytes : 0; }
int64_t simulated_live() { return live; }
int64_t simulated_peak() { return peak; }
void simulated_reset_peak() { peak = live.load(); }
}
