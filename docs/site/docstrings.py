"""What the reference makes of docstrings and signatures: an extension of griffe."""

import re
from typing import Any

import griffe

# Examples at the prompt, up to the next empty line.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", flags=re.DOTALL | re.MULTILINE)
PAGE = re.compile(r"`docs/([\w-]+)\.md`")


class Docstrings(griffe.Extension):
    """Shows examples as code, links to pages, and gives a class the signature of its `__new__`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite a docstring."""
        if obj.docstring is not None:
            text = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
            obj.docstring.value = PAGE.sub(r"[\g<0>](../\1.md)", text)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Take `__new__`, which a stub of a native class has, for the `__init__` that griffe looks for."""
        if "__new__" in cls.members and "__init__" not in cls.members:
            cls.members["__init__"] = cls.members["__new__"]
