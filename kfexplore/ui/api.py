"""Three functions for programs and, through MCP, for assistants, documented for readers who have not seen the page.

Unlike elsewhere, annotations are evaluated on import, because Gradio reads the types of answers from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from textwrap import shorten
from typing import Any, Final, cast

import gradio as gr
import numpy as np
from gradio.utils import get_function_description

from kfexplore.config import STUDY_BLOCKS, DecodeConfig, check_temperature
from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError
from kfexplore.laws.samplers import FEWEST_BLOCKS
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, SamplerLaw
from kfexplore.ui.components import whole
from kfexplore.ui.jobs import Job
from kfexplore.ui.protocol import (
    GenerateAnswer,
    Interval,
    LawsAnswer,
    Likely,
    MapAnswer,
    Sampler,
    Slot,
    Token,
    TotalVariation,
    WrittenToken,
)
from kfexplore.ui.queueing import is_abandoned
from kfexplore.ui.server import log_failure
from kfexplore.ui.service import Service
from kfexplore.ui.writing import WriteConfig

EXAMPLES: Final[dict[str, Any]] = {"prompt": "Once upon a time", "u": [0.1, 0.7, 0.3, 0.9]}
"""Example values for parameters without a default."""
LIKELY_BLOCKS: Final = 10
"""Number of most likely blocks in an answer of `laws`."""
LONGEST: Final = 300
"""Characters of an error, which may quote the request."""


class Api:
    """The API functions. They use the page's service, so limits, scheduling and errors are the same.

    Gradio shows the methods' docstrings to users: a description, and one line per argument.

    Args:
        service: Runs the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def map(self, prompt: str, u: list[float], pair: str | None = None, temperature: float = 1.0) -> MapAnswer:
        """Maps K uniform random numbers to the K tokens that follow a prompt, in two ways at the same numbers.
        Exact: the teacher, an autoregressive language model, decodes token by token by inverse CDF.
        Learned: the student (K-Forcing, a push-forward language model) predicts all K tokens in one forward pass.
        The same numbers always give the same tokens, and a slot never depends on later numbers.

        Args:
            prompt: The text that is continued, such as "Once upon a time".
            u: K numbers from 0 up to, not including, 1, such as [0.1, 0.7, 0.3, 0.9]; most pairs take up to 4 or 8.
            pair: Name of a teacher and its student, as in the page's list; null: the pair that the page opens with.
            temperature: Of both maps; below 1, likely tokens get wider bands of u. Most students know only 1.

        Returns:
            slots: for each number u the exact token and the learned one, with margin and edge
            margin: gap between the student's top two logits (small near a border of the learned map)
            edge: distance of u from the nearest border of the exact map
            prompt_tokens: the ids that were read, the last ones of a prompt longer than the context
        """
        with _refused():
            name = self._name(pair)
            reply = self._service.point({"pair": name, "prompt": prompt, "u": u, "temperature": temperature})
            if not reply["ok"]:
                raise KfError(reply["failed"], reply["valid"], reply["run"])
            models = self._service.models.pair(name)
            unknown = [None] * len(reply["u"])  # without a student
            exact = _tokens(models, reply["teacher"])
            learned = _tokens(models, reply["student"]) if "student" in reply else unknown
            columns = (reply["u"], exact, learned, reply.get("margin", unknown), reply["edge"])
            keys = ("u", "exact", "learned", "margin", "edge")
            slots = [cast(Slot, dict(zip(keys, values, strict=True))) for values in zip(*columns, strict=True)]
            return MapAnswer(pair=name, prompt_tokens=models.encode(prompt)[0], slots=slots)

    def laws(
        self,
        prompt: str,
        k: int = 2,
        blocks: int = STUDY_BLOCKS,
        seed: int = 0,
        pair: str | None = None,
        temperature: float = 1.0,
    ) -> LawsAnswer:
        """Measures samplers of the next K tokens after a prompt against the teacher's exact joint distribution.
        A sampler that draws the tokens of a block independently, each from its own marginal, loses their mutual
        information, however good the marginals are; the student draws them jointly in one pass and need not lose it.
        Takes from a second to minutes.

        Args:
            prompt: The text that is continued, such as "Once upon a time".
            k: Tokens of a block, 2 to 4.
            blocks: How many blocks each sampler draws; more give narrower intervals and take longer.
            seed: Random seed; the same seed gives the same answer.
            pair: Name of a teacher and its student, as in the page's list; null: the pair that the page opens with.
            temperature: Of teacher and student. Most students know only 1; mdlm is left out at any other.

        Returns:
            temperature: the one that teacher and student used
            total_correlation: of the K tokens, in nats
            entropy: of the block, in nats
            irreducible_tv: total variation distance (0 to 1) of the first two tokens from their marginals' product
            samplers: for each its forward passes per block, and its distance from the exact distribution
            tv: total variation distance; its kind is exact, quadrature (low and high are value and error), or
                lower_bound (low is its 95 % limit, high is null)
            tv_by_chance: mean plug-in distance of as many of the teacher's own blocks; not part of tv
            p_value: of a G-test
            kl: from teacher to sampler in nats, where it is known
            impossible: fraction of blocks that the teacher almost never writes
            likely: up to ten most probable blocks, each with its frequency among every sampler's blocks
            notes: what was left out
        """
        with _refused():
            name, limits = self._name(pair), self._service.limits
            sizes = whole("K", k), whole("The number of blocks", blocks), whole("The seed", seed)
            heat = check_temperature(temperature)
            limits.check("blocks", sizes[1], "study_blocks", FEWEST_BLOCKS)
            job = self._service.study(name, prompt, *sizes, heat)
            _finish(job)
            measured = job.snapshot
            if not isinstance(measured, ContextStudy):
                raise KfError(f"Stopped after {limits.run_seconds} s, the limit of this page.", "fewer blocks")
            tv, models = measured.law.tv_product, self._service.models.pair(name)
            return LawsAnswer(
                pair=name,
                prompt_tokens=measured.law.context.tolist(),
                k=measured.k,
                temperature=measured.temperature,
                total_correlation=cast(Interval, asdict(measured.correlation.total)),
                entropy=measured.correlation.entropy,
                irreducible_tv=Interval(value=tv.value, low=tv.lower, high=tv.upper),
                samplers=[_sampler(row) for row in measured.samplers],
                likely=_likely(measured, models),
                notes=measured.notes,
            )

    def generate(
        self,
        prompt: str,
        decoder: str = "pflm",
        k: int | None = None,
        new_tokens: int = 32,
        seed: int = 0,
        pair: str | None = None,
        temperature: float = 1.0,
    ) -> GenerateAnswer:
        """Continues a prompt with one decoder of a pair of language models, and says which step wrote each token.
        ar: the teacher, one token per pass. pflm: the student, K tokens per pass. mdlm: a masked diffusion model, where
        the pair has one. verified and jacobi: guesses that the teacher checks, which write exactly the text of ar.
        Under one seed all decoders read the same random numbers.

        Args:
            prompt: The text that is continued, such as "Once upon a time".
            decoder: One of ar, pflm, mdlm, verified, jacobi.
            k: Tokens per pass; ar takes only 1 or null. null: as many as the student was trained on, for ar 1.
            new_tokens: Length of the text; it ends sooner where the decoder writes the end of the text.
            seed: Random seed; the same seed gives the same text.
            pair: Name of a teacher and its student, as in the page's list; null: the pair that the page opens with.
            temperature: Of all decoders but mdlm. Most students know only 1.

        Returns:
            text: what follows the prompt
            tokens: its tokens, each with the step that wrote it
            passes: forward passes, without prefill
            seconds: of the decoder alone
            ended: whether the last token ends the text
            complete: false where the time for one answer was over before the text was done
        """
        with _refused():
            name = self._name(pair)
            if k is None:
                slots = self._service.models.slots(self._service.models.pair(name))
            else:
                slots = whole("K", k)
                DecodeConfig(decoder, slots)  # refuses a K for ar; the page has one K for all decoders
            config = WriteConfig(
                name,
                prompt,
                (decoder,),
                slots,
                whole("The number of new tokens", new_tokens),
                temperature=check_temperature(temperature),
                seed=whole("The seed", seed),
            )
            writing = self._service.writing(config)
            _finish(writing.job)
            (written,) = writing.written()
            (line,) = written.lines
            parts = zip(line.tokens, line.pieces, line.steps, strict=True)
            return GenerateAnswer(
                pair=name,
                prompt_tokens=writing.ids,
                decoder=written.decoder,
                k=written.k,
                text="".join(line.pieces),
                tokens=[WrittenToken(id=token, text=text, step=step) for token, text, step in parts],
                passes=written.nfe,
                seconds=written.seconds,
                ended=line.ended,
                complete=written.stage == "done",
            )

    def _name(self, pair: str | None) -> str:
        """The requested pair, or the one that the page opens with."""
        return next(iter(self._service.models.loaders)) if pair is None else str(pair)


def add_api(demo: gr.Blocks, service: Service) -> None:
    """Adds the three functions to a page that is being built, and hides the page's listeners from the API.

    `map` bypasses the page's queue and waits for the models like a slider; the other two go through the queue.
    """
    api = Api(service)
    for listener in demo.fns.values():
        listener.api_visibility = "private"
    gr.api(api.map, queue=False)
    gr.api(api.laws, concurrency_limit=1, concurrency_id="joint")
    gr.api(api.generate, concurrency_limit=service.limits.at_once, concurrency_id="generate")
    for endpoint in demo.fns.values():
        if endpoint.api_visibility == "public":
            _describe(endpoint)


def _describe(endpoint: Any) -> None:
    """Makes Gradio show the whole docstring; by default it calls parameters "1st" and "2nd", and omits answers."""
    about, parameters, answer = get_function_description(endpoint.fn)
    endpoint.api_description = f"{about} The answer: {'; '.join(answer)}."
    for (name, words), component in zip(parameters.items(), endpoint.inputs, strict=True):
        component.label = words
        component.example_payload = partial(EXAMPLES.get, name, component.value)
        _list_decoders({name: component.api_info()})
    for component in endpoint.outputs:
        component.label = "answer"
        _list_decoders(component.api_info()["properties"])


def _list_decoders(types: dict[str, Any]) -> None:
    """Makes Gradio list the current decoders; an annotation could list only those known on import."""
    if "decoder" in types:
        types["decoder"].clear()
        types["decoder"]["enum"] = list(DECODERS)


class Refused(gr.Error):
    """A Gradio error that is shown to the user but not logged."""

    def __init__(self, message: str) -> None:
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        return str(self.message)  # for MCP clients; Gradio's own has quotes around it


@contextmanager
def _refused() -> Iterator[None]:
    """Turns a user error into one line; other errors are logged and reported without details."""
    try:
        yield
    except KfError as error:
        short = KfError(shorten(error.failed, LONGEST, placeholder=" …"), error.valid, error.run)
        raise Refused(" ".join(str(short).splitlines())) from None
    except Exception as error:
        log_failure("An API call", error)
        raise Refused("The server failed to answer.") from None


def _finish(job: Job[Any]) -> None:
    """Runs a job to its end.

    Raises:
        KfError: the job failed, or was cancelled, for example because nobody reads the answer.
    """
    for _ in job.run():
        if is_abandoned():
            job.stop()
    if job.state == "cancelled":
        raise KfError("The call was cancelled.", run="the same again, and read its answer")


def _tokens(pair: Pair, ids: list[int]) -> list[Token]:
    return [Token(id=token, text=text) for token, text in zip(ids, pair.texts(ids), strict=True)]


def _sampler(row: SamplerLaw) -> Sampler:
    return Sampler(
        name=row.sampler,
        passes=row.nfe,
        blocks=row.size,
        tv=cast(TotalVariation, asdict(row.tv)),
        tv_by_chance=row.tv_expected,
        p_value=row.p_value,
        kl=row.kl,
        impossible=row.impossible.value,
    )


def _likely(measured: ContextStudy, models: Pair) -> list[Likely]:
    """The most likely blocks in the finest partition that a sampler was tested on."""
    cells = max((row.cells for row in measured.samplers), key=lambda cells: len(cells.blocks))
    return [
        Likely(
            tokens=_tokens(models, block.tolist()),
            probability=float(probability),
            shares={row.sampler: float(np.mean((row.blocks == block).all(axis=1))) for row in measured.samplers},
        )
        for block, probability in zip(cells.blocks[:LIKELY_BLOCKS], cells.probability, strict=False)
    ]
