"""`kfexplore laws`: the exact distribution of a block beside its marginals."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kfexplore.cli.options import DeviceOption, IdsOption, JsonFlag, PairOption, PromptOption, read_context
from kfexplore.config import DEFAULT_PAIR, STUDY_BLOCKS
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.results import Bounded, ContextStudy


def laws(
    toy: Annotated[
        str | None, typer.Option(help="permutation, correlation, noisy-xor, chain or not-all-equal.")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="noisy-xor, chain: flip probability; default 0.1.")] = None,
    rho: Annotated[float | None, typer.Option(help="correlation: correlation of the two bits; default 0.5.")] = None,
    length: Annotated[int | None, typer.Option(help="permutation, chain: tokens, 2 to 6; default 2 and 3.")] = None,
    pair: PairOption = None,
    prompt: PromptOption = None,
    token_ids: IdsOption = None,
    k: Annotated[int, typer.Option("--k", "--K", help="Tokens per block, 2 to 4.")] = 2,
    blocks: Annotated[int, typer.Option(help="Blocks drawn by each sampler.")] = STUDY_BLOCKS,
    seed: Annotated[int, typer.Option(help="Random seed; noise is keyed by seed and sample.")] = 0,
    first: Annotated[
        int | None, typer.Option(help="Number of first tokens; default: all, or 98 % of the mass if V is large.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Temperature of teacher and student; other than 1 excludes the masked model.")
    ] = 1.0,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the loss from sampling marginals after a prompt, exactly and by sampler, or on a toy distribution."""
    if toy is not None and (pair or prompt is not None or token_ids is not None):
        raise KfError("Both a toy and a context were given.", "--toy NAME, or --pair with --prompt or --token-ids")
    own = [option for option, value in {"--eps": eps, "--rho": rho, "--length": length}.items() if value is not None]
    if toy is None and own:
        raise KfError(f"{' and '.join(own)} can only be used with a toy.", "--toy NAME with it, or --pair without")
    if toy is not None and temperature != 1.0:
        raise KfError("--temperature cannot be used with --toy.", "--pair with --prompt or --token-ids")
    if toy is not None:
        _toy(toy, {"eps": eps, "rho": rho, "length": length}, as_json)
        return
    if pair is None and prompt is None and token_ids is None:
        raise KfError(
            "Neither a toy nor a context was given.",
            "--toy permutation, correlation, noisy-xor, chain or not-all-equal; or --pair with --prompt",
        )
    from kfexplore.laws.study import finished, study_steps
    from kfexplore.pair import load_pair

    name = pair or DEFAULT_PAIR
    chosen = load_pair(name, device=device)
    ids = read_context(chosen, prompt, token_ids)
    measured = finished(study_steps(chosen, ids, k, blocks, seed, first, temperature))
    print(json.dumps({"pair": name, **measured.as_json()}, allow_nan=False) if as_json else _summary(measured))


def _summary(measured: ContextStudy) -> str:
    law, found = measured.law, measured.correlation
    lines = [
        f"after {len(law.context)} tokens, {len(law.first)} first tokens, {law.uncovered:.3%} uncovered"
        + (f", temperature {measured.temperature:g}" if measured.temperature != 1.0 else ""),
        f"mutual information of the next two  {_limits(law.mutual_information)} nats",
        f"TV between joint and product        {_limits(law.tv_product)}",
        f"total correlation of the next {measured.k}     {found.total.value:.4f} nats "
        f"[{found.total.low:.4f}, {found.total.high:.4f}]; entropy of the block {found.entropy:.4f}",
    ]
    if (error := measured.error) is not None:
        lines.append(
            f"masked model in one pass            {error.total:.4f} nats from the teacher: "
            f"{error.product:.4f} from the product, {sum(error.wrong_marginals):.4f} from its marginals"
        )
    lines.append(f"\n{'sampler':<38} {'passes':>6} {'blocks':>7}  {'TV':>7}  {'limits':<14} {'p':>8}  impossible")
    lines += [
        f"{row.sampler:<38} {row.nfe:>6} {row.size:>7,}  {row.tv.words:>7}  {row.tv.limits:<14} {row.p_words:>8}  "
        f"{row.impossible.value:>8.2%}"
        for row in measured.samplers
    ]
    lines += [
        "",
        "TV: total variation distance from the teacher's distribution. exact: both are known; a range: quadrature over",
        "the student's noise with its error. ≥: 95 % lower limit from the sampled blocks; do not compare lower limits.",
    ]
    return "\n".join([*lines, *measured.notes])


def _limits(known: Bounded) -> str:
    return f"{known.value:.4f} [{known.lower:.4f}, {known.upper:.4f}]"


def _toy(name: str, options: dict[str, float | None], as_json: bool) -> None:
    from kfexplore.laws.toy import TOYS, toy_law

    given = {option: value for option, value in options.items() if value is not None}
    for option in [option for option in given if name in TOYS and option not in TOYS[name].parameters]:
        print(f"kfexplore: {name} takes no {option}; it is ignored.", file=sys.stderr)
        del given[option]
    measured = toy_law(name, **given)
    if as_json:
        print(json.dumps(measured.as_json()))
        return
    settings = "".join(f", {option} {value:g}" for option, value in measured.parameters.items())
    print(f"{name}{settings}: total variation distance of unmasking by exact marginals")
    print("best and worst: of the fixed orders; random: a uniformly random order for each block\n")
    print(f"{'passes':>6}  {'sizes':<12} {'best':>8} {'worst':>8} {'random':>8}")
    for schedule in measured.schedules:
        distances = "".join(f" {value:>8.4f}" for value in (schedule.best, schedule.worst, schedule.random))
        print(f"{len(schedule.sizes):>6}  {schedule.name:<12}{distances}")
    print(f"{1:>6}  {'push-forward':<12}" + 3 * f" {measured.push_forward:>8.4f}" + "\n")
    for question, reason in (
        ("irreducible, paper's definition:", measured.paper),
        ("irreducible, given every visible set:", measured.strong),
        ("support condition:", measured.support),
    ):
        print(f"{question:<37} {f'no: {reason}' if reason else 'yes'}")
