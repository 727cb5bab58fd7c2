"""Data and results: what may travel, how it is written as JSON, and how it becomes `T` again.

```
codec.py       PayloadCodec: one type's values to bytes and back; digest
json_form.py   what msgspec has to be told: Pydantic models, subclasses, types that cannot be read
extras.py      members that an emit gives, and the handler's type does not have
faults.py      why a value or a text is refused, and where, in words that hold no data
```

Theory of operation
-------------------
msgspec writes and reads the JSON, and is fast because it trusts what it is given: `NaN` becomes
`null`, a set becomes a list, the key `1` becomes the key `"1"`, and nobody is told. A job must
never be changed on its way to its handler, so `PayloadCodec.encode` *reads back what it wrote*,
with the very decoder that the handler will use:

1. What cannot be read back does not fit the type: refused.
2. What comes back equal has survived. This is the hot path, and all of it runs in C.
3. What comes back different is either a harmless change of form (a tuple read as a list, a dict
   that becomes a dataclass, a `UUID` read as text where no type asks for more) or a loss. Only then
   `faults.find_fault` walks the value and what came back side by side. It also finds the place and
   the reason when the encoder itself has refused a value.

"Equal" proves nothing about classes that choose what equality means (`field(compare=False)`), so
there a `null` in the JSON, which is all that a `NaN` can become, sends the value through the walk
as well.

A set, or a key that is not text, has a place where a type says so: the handler's, or that of the
dataclass, Struct or model that holds it. So such an object, emitted without a handler's type, is
held against what its *own* type reads back.

Pydantic is not imported. A model is known by its methods, and its own JSON is what is sent:
its aliases, its `bytes` (UTF-8 unless its configuration says base64), its custom types. It is read
with `strict=True`, as everything else is.

No message carries data. A message names a place (`data.user.tags[2]`) and a type. Keys of dicts
appear in it only if they look like names. Foreign exceptions are named, never quoted or chained: a
validator's text usually contains the value.
"""

from trio_tasks.payloads.codec import (
    PayloadCodec,
    codec_for,
    decode_plain,
    digest,
    encode,
)
from trio_tasks.payloads.faults import MAX_DEPTH

__all__ = ["MAX_DEPTH", "PayloadCodec", "codec_for", "decode_plain", "digest", "encode"]
