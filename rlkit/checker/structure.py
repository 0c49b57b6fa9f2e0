"""Checks of one call of each method: shapes, data types, names of draws, host reads."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_structure

from rlkit.checker.report import Check, Fault
from rlkit.checker.spaces import check_declared, check_space
from rlkit.checker.trace import ROWS, SEED, choose_actions, copy_tree, form, named_leaves
from rlkit.protocol import Composite, Instance, Problem, Spec, Step, Tree
from rlkit.random import Rng
from rlkit.spaces import parts_of

# Checks without which the others mean nothing.
VITAL = ("parameters", "instance", "spec", "state", "observation", "step", "diagnostics")
HOST_READS = {
    torch.ops.aten._local_scalar_dense.default: "reads a number on the host (.item(), if, float())",
    torch.ops.aten.equal.default: "compares tensors on the host (torch.equal)",
    torch.ops.aten.nonzero.default: "makes a shape that depends on data (nonzero, a mask as index)",
    torch.ops.aten.masked_select.default: "makes a shape that depends on data (masked_select)",
    torch.ops.aten._unique2.default: "makes a shape that depends on data (unique)",
}


class Arguments(NamedTuple):
    """What the methods of a problem are given."""

    instance: Instance
    state: Tree
    action: Tensor


class Structure:
    """Calls each method once on `ROWS` replicas and looks at what comes back."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.replica = torch.arange(ROWS)
        self._kept: dict[str, Any] = {}

    def rng(self, stream: str, step: int = 0) -> Rng:
        """Draws with bounded rejection, refusing a name used twice."""
        return Rng(SEED, stream, self.replica, step, rounds=8, rejected=[], used=set())

    def checks(self) -> list[Check]:
        """In an order where each may rely on those before."""
        return [
            ("parameters", self.parameters),
            ("instance", self.instance),
            ("spec", self.spec),
            ("state", self.state),
            ("observation", self.observation),
            ("step", self.step),
            ("diagnostics", self.diagnostics),
            ("purity", self.purity),
            ("host reads", self.host_reads),
        ]

    def parameters(self) -> None:
        """A frozen dataclass of numbers, strings and tuples."""
        problem, name = self.problem, type(self.problem).__name__
        params = getattr(problem, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise Fault(f"{name} is not a frozen dataclass: decorate it @dataclass(frozen=True)")
        for field in dataclasses.fields(problem):  # type: ignore[arg-type]
            value = getattr(problem, field.name)
            if not is_plain(value):
                raise Fault(
                    f"field {field.name} holds a {type(value).__name__}: keep numbers, strings "
                    "and tuples in fields and make tensors in instance()"
                )
        horizon = problem.horizon
        if horizon is not None and (type(horizon) is not int or horizon < 1):
            raise Fault(f"horizon = {horizon!r}: give an integer >= 1, or None if it never ends")

    def instance(self) -> None:
        """Tensors, per-replica ones with leading dimension N."""
        instance = named_draws(lambda: self.problem.instance(self.rng("instance")))
        if not isinstance(instance, Instance):
            raise Fault(f"instance() returned a {type(instance).__name__}: return an Instance")
        check_tensors(instance.shared, "instance.shared")
        check_leading(instance.replica, "instance.replica")
        self._kept["instance"] = instance

    def spec(self) -> None:
        """Known spaces that hold something."""
        spec = self.problem.spec(self._kept["instance"])
        if not isinstance(spec, Spec):
            raise Fault(f"spec() returned a {type(spec).__name__}: return a Spec")
        seen = spec.observation
        if isinstance(seen, Composite):
            names = [name for name, _ in seen.parts]
            if not names or len(set(names)) < len(names):
                raise Fault(f"spec.observation has parts {names}: give at least one, names differ")
        for name, space in (*parts_of(seen, "observation"), ("action", spec.action)):
            check_declared(space, name)
        self._kept["spec"] = spec

    def state(self) -> None:
        """Tensors with leading dimension N."""
        state = named_draws(lambda: self.problem.reset(self._kept["instance"], self.rng("reset")))
        check_leading(state, "state")
        self._kept["state"] = state

    def observation(self) -> None:
        """Inside the declared space, with its shape and data type."""
        seen = self.problem.observe(self._kept["instance"], self._kept["state"])
        check_space(seen, self._kept["spec"].observation, "observation")

    def step(self) -> None:
        """Reward and discount `[N]`, and a state of the form it had."""
        out = named_draws(lambda: self.transition(0))
        if not isinstance(out, Step):
            raise Fault(f"transition() returned a {type(out).__name__}: return a Step")
        for name, value in (("reward", out.reward), ("discount", out.discount)):
            check_number(name, value)
        check_leading(out.state, "state")
        check_same_form(self._kept["state"], out.state)
        if out.feedback is not None:
            check_leading(out.feedback, "feedback")
        self._kept["next"] = out.state

    def transition(self, step: int) -> Any:
        """One transition from the start state."""
        return self.problem.transition(
            self._kept["instance"], self._kept["state"], self.action(step), self.rng("env", step)
        )

    def action(self, step: int) -> Tensor:
        """Random actions."""
        return choose_actions(self._kept["spec"].action, self.replica, step)

    def diagnostics(self) -> None:
        """A dict of numbers `[N]` with the same names in every state."""
        names = []
        for state in (self._kept["state"], self._kept["next"]):
            gains = self.problem.diagnostics(self._kept["instance"], state, self.action(0))
            if not isinstance(gains, dict):
                raise Fault(f"diagnostics() returned a {type(gains).__name__}: return a dict")
            for name, value in gains.items():
                check_number(f"diagnostics()[{name!r}]", value)
            names.append(sorted(gains))
        if names[0] != names[1]:
            raise Fault(f"diagnostics() has names {names[0]}, then {names[1]}: keep them the same")

    def purity(self) -> None:
        """No method writes into its arguments."""
        for step in range(3):
            for name, call in self.calls(step).items():
                given = Arguments(self._kept["instance"], self._kept["state"], self.action(step))
                pairs = zip(
                    named_leaves(copy_tree(given), ""), named_leaves(given, ""), strict=True
                )
                call(given.action)
                for (path, old), (_, new) in pairs:
                    if not torch.equal(old, new):
                        raise Fault(
                            f"{name}() wrote into its argument {path[1:]}: return new tensors"
                        )

    def calls(self, step: int) -> dict[str, Callable[[Tensor], Any]]:
        """The methods that run in every step, by name, as functions of the action."""
        problem, instance, state = self.problem, self._kept["instance"], self._kept["state"]
        return {
            "transition": lambda action: problem.transition(
                instance, state, action, self.rng("env", step)
            ),
            "observe": lambda action: problem.observe(instance, state),
            "diagnostics": lambda action: problem.diagnostics(instance, state, action),
            "reset": lambda action: problem.reset(instance, self.rng("reset", step)),
        }

    def host_reads(self) -> None:
        """No method waits for the device or branches on data: such code cannot be compiled."""
        for name, call in self.calls(1).items():
            action = self.action(1)
            watcher = HostReads()
            with watcher:
                call(action)
            if watcher.found:
                raise Fault(
                    f"{name}() {watcher.found[0]}: compute on all replicas and choose with "
                    "torch.where"
                )


class HostReads(TorchDispatchMode):
    """Notes operations that need the values of a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, noting it if it is a host read."""
        if func in HOST_READS:
            self.found.append(HOST_READS[func])
        if func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            self.found.append(HOST_READS[torch.ops.aten.nonzero.default])
        return func(*args, **(kwargs or {}))


def is_plain(value: object) -> bool:
    """Whether a field value is a number, a string, None or a tuple of such."""
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def named_draws(call: Callable[[], Any]) -> Any:
    """Result of `call`; a draw name used twice is a fault."""
    try:
        return call()
    except ValueError as error:
        if "is used twice" in str(error):
            raise Fault(f"{error}: both get the same numbers, name each draw") from error
        raise


def check_tensors(tree: Tree, owner: str) -> None:
    """Refuse leaves that are no tensors."""
    for path, leaf in named_leaves(tree, owner):
        if not isinstance(leaf, Tensor):
            raise Fault(f"{path} is the {type(leaf).__name__} {leaf!r}: hold tensors only")


def check_leading(tree: Tree, owner: str) -> None:
    """Refuse leaves without leading replica dimension."""
    check_tensors(tree, owner)
    for path, leaf in named_leaves(tree, owner):
        if isinstance(leaf, Tensor) and leaf.shape[:1] != (ROWS,):
            raise Fault(
                f"{path} is {form(leaf)} for {ROWS} replicas: lead with the replica dimension"
            )


def check_number(name: str, value: object) -> None:
    """Refuse what is not a real tensor `[N]`."""
    if not isinstance(value, Tensor):
        raise Fault(f"{name} is a {type(value).__name__}: return a tensor [N]")
    if value.shape != (ROWS,):
        raise Fault(f"{name} has shape {list(value.shape)} for {ROWS} replicas: return [N]")
    if not value.dtype.is_floating_point:
        kind = str(value.dtype).removeprefix("torch.")
        raise Fault(f"{name} has data type {kind}: convert it with .float()")


def check_same_form(old: Tree, new: Tree) -> None:
    """Refuse a state that changed its structure, shapes or data types."""
    if tree_structure(old) != tree_structure(new):
        raise Fault(
            f"transition() turned a state {type(old).__name__} into a {type(new).__name__} of "
            "another structure: return the same structure"
        )
    for (path, a), (_, b) in zip(
        named_leaves(old, "state"), named_leaves(new, "state"), strict=True
    ):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and form(a) != form(b):
            raise Fault(
                f"{path} is {form(a)} after reset and {form(b)} after transition: keep its form"
            )
