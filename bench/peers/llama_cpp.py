"""llama.cpp through its C interface: libraries of the npm package @node-llama-cpp/linux-x64 (it carries a backend for every
instruction set and loads the best one), declarations of the Python package llama-cpp-py-sync. install.sh fetches both."""
import glob
import importlib.util
import re
import time

from cffi import FFI


def _declarations():
    spec = importlib.util.find_spec("llama_cpp_py_sync")
    text = open(spec.submodule_search_locations[0] + "/_cffi_bindings.py").read()
    return re.search(r'_LLAMA_H_CDEF = """(.*?)"""', text, re.S).group(1)


class LlamaCpp:
    def __init__(self, libraries):
        self.ffi = FFI()
        self.ffi.cdef(_declarations() + "\nvoid ggml_backend_load_all_from_path(const char*);")
        directory = libraries.rstrip("/") + "/"
        self.ffi.dlopen(glob.glob(directory + "libggml-base*.so*")[0], self.ffi.RTLD_NOW | self.ffi.RTLD_GLOBAL)
        ggml = [p for p in glob.glob(directory + "libggml.*so*")][0]
        self.ggml = self.ffi.dlopen(ggml, self.ffi.RTLD_NOW | self.ffi.RTLD_GLOBAL)
        self.ggml.ggml_backend_load_all_from_path(directory.encode())
        self.lib = self.ffi.dlopen(glob.glob(directory + "libllama.*so*")[0], self.ffi.RTLD_NOW | self.ffi.RTLD_GLOBAL)
        self._quiet = self.ffi.callback("ggml_log_callback", lambda *a: None)  # kept alive
        self.lib.llama_log_set(self._quiet, self.ffi.NULL)

    def requantize(self, source, target, file_type):
        """file_type as in llama.h: 2 = Q4_0. All tensors alike, so that bytes compare."""
        params = self.lib.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.pure = file_type, True, True
        p = self.ffi.new("llama_model_quantize_params *", params)
        if self.lib.llama_model_quantize(source.encode(), target.encode(), p) != 0:
            raise SystemExit(f"{source}: llama.cpp cannot quantize it")


class LlamaSession:
    def __init__(self, llama, path, threads, sequences=16, length=640):
        self.ffi, self.lib = llama.ffi, llama.lib
        self.model = self.lib.llama_model_load_from_file(path.encode(), self.lib.llama_model_default_params())
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = max(1024, sequences * length), 512, 512, sequences
        params.n_threads = params.n_threads_batch = threads
        self.ctx = self.lib.llama_init_from_model(self.model, params)
        self.vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.batch = self.lib.llama_batch_init(512, 0, 1)

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)

    def decode(self, items):
        """items: (token, position, sequence, wants logits)"""
        b = self.batch
        b.n_tokens = len(items)
        for i, (token, position, sequence, logits) in enumerate(items):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, logits
            b.seq_id[i][0] = sequence
        if self.lib.llama_decode(self.ctx, b) != 0:
            raise SystemExit("llama_decode failed")
        self.lib.llama_synchronize(self.ctx)

    def prefill(self, n):
        """Tokens per second."""
        self.clear()
        items = [((i * i * 31 + i * 7) % self.vocab, i, 0, i == n - 1) for i in range(n)]
        start = time.perf_counter()
        self.decode(items)
        return n / (time.perf_counter() - start)

    def steps(self, sequences, steps):
        """Tokens per second of all sequences together."""
        self.clear()
        self.decode([(s + 1, 0, s, True) for s in range(sequences)])
        start = time.perf_counter()
        for p in range(1, steps + 1):
            self.decode([((s * 31 + p * 7) % self.vocab, p, s, True) for s in range(sequences)])
        return steps * sequences / (time.perf_counter() - start)
