"""A stack machine for pickles that knows the few instructions which arrays and networks need, and executes nothing.

Python's own machine calls whatever a file names, and allocates whatever size the file states. Here the few names that a file
may contain stand for functions below; an array is never larger than its bytes in the file.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fpgan.errors import printable

if TYPE_CHECKING:
    import mmap

_MAX_INSTRUCTIONS = 1_000_000  # the authors' largest file has some tens of thousands
_MAX_INTEGER_BITS = 64
_VERSIONS = (2, 3, 4)
_ELEMENT = re.compile("f[248]|[iu][1248]|b1")


class Refused(Exception):
    """The file asks for something that is not allowed, or is damaged."""


@dataclasses.dataclass(eq=False)
class Network:
    """One network of the file, as plain data.

    Attributes:
      name: e.g. "G".
      arguments: the static arguments that its constructor was given.
      components: its sub-networks by name.
      variables: its own arrays by local name, such as "8x8/Conv0_up/weight".
    """

    name: str = ""
    arguments: dict = dataclasses.field(default_factory=dict)
    components: dict = dataclasses.field(default_factory=dict)
    variables: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class _ElementType:
    """Stands for a numpy.dtype; the byte order comes later than the code."""

    code: str
    order: str = "="


@dataclasses.dataclass(eq=False)
class Array:
    """Stands for a numpy.ndarray; the content comes later than the object."""

    content: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the file may contain: what calling it does, what it is a class of, or which numbers a storage holds."""

    call: Callable | None = None
    instance: type | None = None
    storage: str | None = None


def brief(value: object) -> str:
    """Returns a short description of a value from the file on one line; big or nested values by their type alone."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return printable(repr(value)[:80])
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__.strip('_')}"


def run(content: bytes | BinaryIO | mmap.mmap, names: Mapping[tuple[str, str], Name] | None = None,
        persistent: Callable | None = None) -> object:
    """Runs the pickle's instructions; returns what is on top of the stack at the end.

    Args:
      content: the bytes, or a file, of which no more than the pickle is read.
      names: what it may name; arrays and networks by default.
      persistent: what a persistent id stands for; none is allowed without it.
    """
    machine = _Machine(_NAMES if names is None else names, persistent)
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if count > _MAX_INSTRUCTIONS:
            raise Refused(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")
        if instruction.name == "STOP":
            return machine.pop()
        if instruction.name not in _INSTRUCTIONS:
            raise Refused(f"it contains the instruction {instruction.name}, which networks do not need")
        _INSTRUCTIONS[instruction.name](machine, argument)
    raise ValueError("no end")


class _Machine:
    """The stack, the places marked in it, the memo, where objects wait to be used again, and what may be named."""

    def __init__(self, names: Mapping[tuple[str, str], Name], persistent: Callable | None):
        self.stack, self.marks, self.memo = [], [], {}
        self.names, self.persistent = names, persistent

    def push(self, value) -> None:
        """Puts a value on top of the stack."""
        self.stack.append(value)

    def pop(self):
        """Takes the top value, but none below the last mark."""
        if self.marks and self.marks[-1] == len(self.stack):
            raise ValueError("an instruction without its operand")
        return self.stack.pop()

    def pop_many(self, count: int) -> list:
        """Takes the top values, in the order in which they came."""
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list:
        """Takes the values above the last mark, and the mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def recall(self, index: int) -> None:
        """Puts an object of the memo on top of the stack."""
        if index not in self.memo:
            raise ValueError("a reference to nothing")
        self.push(self.memo[index])

    def top(self, kind: type):
        """The object on top, which stays; it must be of a kind."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"an instruction for a {kind.__name__} on something else")
        return self.stack[-1]


def _push_integer(machine: _Machine, value: int) -> None:
    if value.bit_length() > _MAX_INTEGER_BITS:
        raise Refused(f"it contains an integer of {value.bit_length():,} bits")
    machine.push(value)


def _extend(machine: _Machine, items: list) -> None:
    machine.top(list).extend(items)


def _set_items(machine: _Machine, items: list) -> None:
    target = machine.top(dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise Refused(f"it contains a dict with the key {brief(key)}; only strings are expected")
        target[key] = value


def _find(machine: _Machine, module, name) -> None:
    """Pushes what an allowed name stands for."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no string")
    if (module, name) not in machine.names:
        raise Refused(f"it asks for {printable(f'{module}.{name}'[:80])}; only NumPy arrays, plain containers and networks "
                      "of dnnlib.tflib.network are allowed")
    machine.push(machine.names[module, name])


def _push_persistent(machine: _Machine) -> None:
    """Pushes what lies beside the pickle, such as the numbers of a tensor."""
    if machine.persistent is None:
        raise Refused("it contains the instruction BINPERSID, which networks do not need")
    machine.push(machine.persistent(machine.pop()))


def _reduce(machine: _Machine) -> None:
    name, arguments = machine.pop_many(2)
    if not isinstance(name, Name) or name.call is None or not isinstance(arguments, tuple):
        raise Refused(f"it calls {brief(name)}; only what rebuilds an array may be called")
    try:
        machine.push(name.call(*arguments))
    except TypeError:
        raise ValueError("a wrong number of arguments") from None


def _new(machine: _Machine) -> None:
    name, arguments = machine.pop_many(2)
    if not isinstance(name, Name) or name.instance is not Network or arguments != ():
        raise Refused(f"it makes an object of {brief(name)}; only networks may be made")
    machine.push(Network())


def _build(machine: _Machine) -> None:
    state = machine.pop()
    target = machine.stack[-1]
    if type(target) is dict and machine.persistent is not None:
        return  # attributes of a state dict, which say nothing of its tensors
    if type(target) not in _SETTERS:
        raise Refused(f"it sets the state of {brief(target)}")
    _SETTERS[type(target)](target, state)


def _element_type(code, *flags) -> _ElementType:
    if not isinstance(code, str) or not _ELEMENT.fullmatch(code):
        raise Refused(f"it contains an array of the type {brief(code)}; only numbers are expected")
    return _ElementType(code)


def _set_element_type(target: _ElementType, state) -> None:
    """State as NumPy writes it: version, byte order, and what structured types have."""
    if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise ValueError("an array type with an unknown state")
    if state[2:5] != (None, None, None):
        raise Refused("it contains an array of a structured type")
    target.order = state[1]


def _empty_array(kind, shape, code) -> Array:
    if not isinstance(kind, Name) or kind.instance is not np.ndarray:
        raise Refused(f"it makes an array of the class {brief(kind)}")
    return Array()


def _set_array(target: Array, state) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array with an unknown state")
    _, shape, element, fortran, data = state
    target.content = _content(data, element, shape, "F" if fortran else "C")


def _scalar(element, data) -> Array:
    return Array(_content(data, element, (), "C"))


def _array_from_buffer(data, element, shape, order) -> Array:
    if order not in ("C", "F"):
        raise ValueError("an array in an unknown order")
    return Array(_content(data, element, shape, order))


def _content(data, element, shape, order: str) -> np.ndarray:
    """A read-only array on bytes of the file; it has no room but these."""
    if not isinstance(data, (bytes, bytearray)) or not isinstance(element, _ElementType):
        raise Refused(f"it contains an array of {brief(data)}, where bytes and a type of numbers are expected")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(size) is int and size > 0 for size in shape):
        raise Refused(f"it contains an array with the shape {brief(shape)}, where positive sizes are expected")
    kind = np.dtype(element.code).newbyteorder(element.order)
    if math.prod(shape) * kind.itemsize != len(data):
        raise Refused(f"it contains an array of {brief(math.prod(shape))} numbers with {len(data):,} bytes of content")
    return np.frombuffer(bytes(data), kind).reshape(shape, order=order)


def _set_network(target: Network, state) -> None:
    """Takes what describes a network; its source code, build_module_src, is dropped unread."""
    if not isinstance(state, dict):
        raise Refused(f"it contains a network with {brief(state)} as its state")
    if state.get("version") not in _VERSIONS:
        raise Refused(f"it contains a network of version {brief(state.get('version'))}; 2, 3 and 4 are known")
    name, arguments, components = (state.get(key) for key in ("name", "static_kwargs", "components"))
    if not isinstance(name, str) or not isinstance(arguments, dict) or not isinstance(components, dict):
        raise Refused("it contains a network without name, static_kwargs or components")
    target.name, target.arguments, target.components = name, arguments, components
    if not all(isinstance(part, Network) for part in components.values()):
        raise Refused(f"it contains a network {brief(name)} with a component that is none")
    target.variables = dict(_variables(name, state.get("variables")))


def _variables(network: str, listed) -> Iterator[tuple[str, np.ndarray]]:
    if not isinstance(listed, list):
        raise Refused(f"it contains a network {brief(network)} without a list of variables")
    for item in listed:
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise Refused(f"the network {brief(network)} has a variable that is no pair of name and array")
        if not isinstance(item[1], Array) or item[1].content is None:
            raise Refused(f"the variable {brief(item[0])} of the network {brief(network)} is {brief(item[1])}, no array")
        yield item[0], item[1].content


_SETTERS = {_ElementType: _set_element_type, Array: _set_array, Network: _set_network}

_NAMES = {
    ("dnnlib.tflib.network", "Network"): Name(instance=Network),
    ("numpy", "ndarray"): Name(instance=np.ndarray),
    ("numpy", "dtype"): Name(call=_element_type),
}
for _numpy in ("numpy.core", "numpy._core"):
    _NAMES |= {
        (f"{_numpy}.multiarray", "_reconstruct"): Name(call=_empty_array),
        (f"{_numpy}.multiarray", "scalar"): Name(call=_scalar),
        (f"{_numpy}.numeric", "_frombuffer"): Name(call=_array_from_buffer),
    }

_INSTRUCTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop_many(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop_many(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop_many(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: _extend(m, m.pop_many(1)),
    "APPENDS": lambda m, _: _extend(m, m.pop_to_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "SETITEM": lambda m, _: _set_items(m, m.pop_many(2)),
    "SETITEMS": lambda m, _: _set_items(m, m.pop_to_mark()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GLOBAL": lambda m, argument: _find(m, *argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _find(m, *m.pop_many(2)),
    "INST": lambda m, argument: _find(m, *argument.split(" ", 1)),  # refused by name unless allowed, and then useless
    "REDUCE": lambda m, _: _reduce(m),
    "BINPERSID": lambda m, _: _push_persistent(m),
    "NEWOBJ": lambda m, _: _new(m),
    "BUILD": lambda m, _: _build(m),
}
_INSTRUCTIONS |= dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None)
_INSTRUCTIONS |= dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _push_integer)
_INSTRUCTIONS |= dict.fromkeys(("BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
                                "BINBYTES8", "BYTEARRAY8"), _Machine.push)
_INSTRUCTIONS |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, index: m.memo.__setitem__(index, m.stack[-1]))
_INSTRUCTIONS |= dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall)
