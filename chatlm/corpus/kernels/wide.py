"""Sixty-four bytes at a time: what compiled loops over UTF-8 are quick with.

In: uint8 arrays and places in them. Out: words of 64 bits, one for each byte, or a copied run. LLVM
makes of it whatever the processor has (AVX-512, AVX2, SSE2, NEON) and the results are the same. It
knows nothing of what the bytes mean.

A load or store may reach up to `SLACK` bytes beyond what the loop cares about: arrays must be that
much longer, and nothing checks it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

SLACK = 64

Codegen = tuple[Any, Callable[..., Any]]


def _vector_at(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> tuple[Any, Any]:
    """Returns a pointer to the 64 bytes from `at` on, and their type."""
    wide = ir.VectorType(ir.IntType(8), 64)
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), wide.as_pointer()), wide


def _bits(operator: str) -> Callable[..., Codegen]:
    def implement(_: Any, data: Any, _at: Any, _byte: Any) -> Codegen:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer, wide = _vector_at(context, builder, sig.args[0], args[0], args[1])
            nothing = ir.Constant(wide, ir.Undefined)
            single = builder.insert_element(nothing, args[2], ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
            splat = builder.shuffle_vector(single, nothing, zeros)
            found = builder.icmp_unsigned(operator, builder.load(pointer, align=1), splat)
            return builder.bitcast(found, ir.IntType(64))

        return types.uint64(data, types.int64, types.uint8), generate

    return implement


def _copy(_: Any, source: Any, _at: Any, target: Any, _to: Any) -> Codegen:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        read, _ = _vector_at(context, builder, sig.args[0], args[0], args[1])
        write, _ = _vector_at(context, builder, sig.args[2], args[2], args[3])
        builder.store(builder.load(read, align=1), write, align=1)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), generate


def _zeros(_: Any, _word: Any) -> Codegen:
    def generate(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _ones(_: Any, _word: Any) -> Codegen:
    def generate(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


def _without_owner(_: Any, array: Any) -> Codegen:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = context.make_array(sig.args[0])(context, builder, args[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return array(array), generate


equal: Any = intrinsic(_bits("=="))
"""equal(data, at, byte): uint64 whose bit i is set where `data[at + i]` is `byte`."""
below: Any = intrinsic(_bits("<"))
"""below(data, at, byte): uint64 whose bit i is set where `data[at + i]` is less than `byte`."""
copy_64: Any = intrinsic(_copy)
"""copy_64(source, at, target, to): copies 64 bytes."""
trailing_zeros: Any = intrinsic(_zeros)
"""trailing_zeros(word): int64, how many zero bits lie below the lowest set one; 64 for 0."""
count_ones: Any = intrinsic(_ones)
"""count_ones(word): int64, how many bits are set."""
unowned: Any = intrinsic(_without_owner)
"""unowned(array): the same array, whose references are not counted: a loop that hands arrays to
small functions spends half its time counting them. The caller must hold the array."""
