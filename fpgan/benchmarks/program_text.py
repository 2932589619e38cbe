"""What the text of a compiled program says (`compiled.as_text()`): bytes between devices, bytes to and from memory, cycles.

Each instruction stands on a line, `%name = type operation(operands), attributes`; a type is f32[8,3]{1,0:T(8,128)S(1)}, or a
tuple of such: dimensions, their order from the minor one, the tile that pads the minor ones, and the memory space, which is
the device's main memory (HBM) where no S stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# What is asynchronous begins with all-reduce-start, whose type may repeat the operands, and ends with all-reduce-done.
_COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-done)?")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?(?P<name>%[^\s=]+) = (?P<type>.*?) (?P<operation>[a-z][a-z0-9-]*)\((?P<rest>.*)$")
_ARRAY = re.compile(r"\b(?P<kind>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
_NAME = re.compile(r"%[\w.-]+")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_STILL = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
                    "replica-id", "opt-barrier", "iota"})  # they move no bytes
_PART = frozenset({"slice", "dynamic-slice", "gather"})  # they read no more of their first operand than they return


class Instruction(NamedTuple):
    """A line of a program.

    Attributes:
      name: with its %.
      type: of the result, as text.
      operation: such as "fusion".
      operands: names.
      rest: what follows the operation's opening bracket.
    """

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    rest: str


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Reads a program.

    Args:
      text: the program after optimisation; lines that are no instructions are passed over.

    Returns:
      The computations, name -> instructions, and the name of the one that is run; instructions outside any are in "".
    """
    computations, name, entry = {"": []}, "", ""
    for line in text.splitlines():
        begins = _COMPUTATION.match(line)
        if begins and " = " not in line.split("(")[0]:
            name = begins["name"]
            computations[name] = []
            entry = name if begins["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            operands = tuple(_NAME.findall(found["rest"].split(")")[0]))
            computations[name].append(Instruction(found["name"], found["type"], found["operation"], operands, found["rest"]))
    return computations, entry


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of one run of a compiled program on each device, and the bytes of their results.

    Args:
      text: the program after optimisation, where each operation stands once.

    Returns:
      Kind, such as "all-reduce" -> "count" and "bytes".
    """
    found = {}
    for instructions in parse(text)[0].values():
        for instruction in instructions:
            if match := _COLLECTIVE.fullmatch(instruction.operation):
                entry = found.setdefault(match[1], {"count": 0, "bytes": 0})
                entry["count"] += 1
                entry["bytes"] += _size(instruction.type)
    return found


def all_reduced_bytes(text: str) -> int:
    """Counts the bytes that one run of a compiled program all-reduces on each device."""
    return collectives(text).get("all-reduce", {"bytes": 0})["bytes"]


def estimated_cycles(text: str) -> dict[str, int]:
    """Sums the cycles that a TPU's compiler expects its operations to take.

    Returns:
      Name of an operation in JAX (without the program's) -> cycles of one run; empty where the compiler states none.
    """
    cycles: dict[str, int] = {}
    for instruction, times in _run(*parse(text)):
        if found := _CYCLES.search(instruction.rest):
            label = re.search(r'op_name="(?:jit\([^"/]*\)/)?(?:shard_map/)?([^"]*)"', instruction.rest)
            key = label[1] if label else instruction.operation
            cycles[key] = cycles.get(key, 0) + times * int(found[1])
    return cycles


def memory_traffic(text: str) -> dict[str, int]:
    """Counts the bytes that one run of a program moves to and from the device's main memory.

    What stays in fast memory, memory space S(1), does not count, and neither does what a fusion keeps to itself.

    Returns:
      "bytes", as they lie in memory, and "unpadded", without what tiles add.
    """
    computations, entry = parse(text)
    types = {i.name: i.type for instructions in computations.values() for i in instructions}
    total = {"bytes": 0, "unpadded": 0}
    for instruction, times in _run(computations, entry):
        for key, padded in (("bytes", True), ("unpadded", False)):
            total[key] += times * _moved(instruction, types, computations, padded)
    return total


def _run(computations: dict[str, list[Instruction]], name: str, times: int = 1) -> Iterator[tuple[Instruction, int]]:
    """The instructions of a computation and of what it calls, but for fusions, each with how often it runs."""
    for instruction in computations[name]:
        rest = instruction.rest
        if instruction.operation == "while":
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            body = re.search(r"body=%([\w.-]+)", rest)[1]
            yield from _run(computations, body, times * (int(count[1]) if count else 1))
        elif instruction.operation == "call":
            yield from _run(computations, re.search(r"to_apply=%([\w.-]+)", rest)[1], times)
        elif instruction.operation == "conditional":
            for branch in _NAME.findall(rest.split("branch_computations={", 1)[-1].split("}")[0]):
                yield from _run(computations, branch[1:], times)
        else:
            yield instruction, times


def _moved(instruction: Instruction, types: dict[str, str], computations: dict, padded: bool) -> int:
    """Bytes that an instruction moves to and from main memory."""
    operation = instruction.operation
    if operation in _STILL or operation.endswith("-start"):
        return 0
    if operation.endswith("-done"):  # of a copy: one end of it is main memory
        return _size(instruction.type, padded)
    read = sum(_read(instruction, place, name, types, computations, padded)
               for place, name in enumerate(instruction.operands))
    return read + _size(instruction.type, padded, main_only=True)


def _read(instruction: Instruction, place: int, name: str, types: dict, computations: dict, padded: bool) -> int:
    """Bytes that an instruction reads of an operand in main memory; of one that it slices, the slices."""
    whole = _size(types.get(name, ""), padded, main_only=True)
    if not whole:
        return 0
    if instruction.operation in _PART and place == 0:
        return min(whole, _size(instruction.type, padded))
    called = re.search(r"calls=%([\w.-]+)", instruction.rest)
    if instruction.operation != "fusion" or not called:
        return whole
    inner = computations[called[1]]
    parameter = next((i.name for i in inner if i.operation == "parameter" and i.rest.startswith(f"{place})")), None)
    users = [i for i in inner if parameter in i.operands]
    if users and all(i.operation in _PART and i.operands[0] == parameter for i in users):
        return min(whole, sum(_size(i.type, padded) for i in users))
    return whole


def _size(types: str, padded: bool = False, main_only: bool = False) -> int:
    """Bytes of the arrays of a type; with their tiles' padding, or only of those in main memory."""
    return sum(_array_bytes(array, padded) for array in _ARRAY.finditer(types)
               if not (main_only and "S(" in (array["layout"] or "")))


def _array_bytes(array: re.Match, padded: bool = False) -> int:
    sizes = [int(size) for size in array["shape"].split(",") if size]
    layout = array["layout"] or ""
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if padded and tile and sizes:
        order = [int(i) for i in layout.split(":")[0].split(",")]  # from the minor dimension on
        for place, step in zip(order, reversed(tile[1].split(",")), strict=False):
            sizes[place] = -(-sizes[place] // int(step)) * int(step)
    return math.prod(sizes) * (1 if array["kind"] == "pred" else max(1, int(array["bits"]) // 8))
