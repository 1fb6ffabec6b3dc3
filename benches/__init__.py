"""The benchmarks. `README.md` says what each workload is."""

import importlib.util
import os
import sys
from pathlib import Path

# llama-index-core ships the vocabulary of cl100k_base: with it tiktoken needs no network. Finding a submodule would
# import its parents; finding the package and going on by path does not.
_NAMESPACE = importlib.util.find_spec("llama_index")
for _folder in _NAMESPACE.submodule_search_locations or () if _NAMESPACE else ():
    _cache = Path(_folder) / "core" / "_static" / "tiktoken_cache"
    if _cache.is_dir():
        os.environ["TIKTOKEN_CACHE_DIR"] = str(_cache)

# The servers that the tests start are what the benchmarks of stores run on.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
