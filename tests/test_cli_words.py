"""Any words on the command line: what they mean is done, or one message says why not; never a traceback."""

from __future__ import annotations

import shlex

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shell import FILES, IDS, Shell

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NUMBER = st.one_of(st.integers(-3, 8), st.integers(), st.floats(), st.floats(0, 1)).map(str)
WORD = NUMBER | TEXT | st.sampled_from(["", ",", "1,", "0x1", "1_0", "١", "1e400", "-0.0", "nan", "9" * 5000, "--k"])
WORDS = st.lists(WORD, max_size=4).map(",".join)
SMALL = st.one_of(st.integers(-3, 3).map(str), TEXT.filter(lambda text: not text.strip("+-_ ").isdecimal()))
"""For what costs time or memory where it is large."""

words = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answered(shell: Shell, line: str, **options: str) -> None:
    """Runs a line with options of any words."""
    given_words = " ".join(f"--{name.replace('_', '-')}={shlex.quote(value)}" for name, value in options.items())
    code, out, err = shell.run(f"{line} {given_words}")
    assert code in (0, 2), err
    assert "Traceback" not in err
    if code == 2:
        assert out == ""
        assert err


@words
@given(WORDS, WORDS)
@example("3,1,4", "0.5")
def test_context_and_noise_of_map(shell: Shell, ids: str, noise: str) -> None:
    answered(shell, f"map {FILES}", token_ids=ids, noise=noise)


@words
@given(TEXT, WORDS, st.sampled_from(["FOLDER", "FOLDER/none", "~nobody-has-this-name", "x" * 300]) | TEXT)
@example("The owl", "0.1,0.9", "FOLDER")
def test_prompt_and_pair_of_map(shell: Shell, prompt: str, noise: str, pair: str) -> None:
    answered(shell, "map", prompt=prompt, noise=noise, pair=pair.replace("/", "_") if "FOLDER" not in pair else pair)


@words
@given(st.sampled_from(["ar", "pflm", "jacobi", "verified", "mdlm"]) | TEXT, WORD, SMALL, NUMBER | TEXT, WORD, WORD)
@example("pflm", "2", "3", "1.0", "0", "4")
def test_options_of_generate(
    shell: Shell, model: str, k: str, samples: str, tau: str, freq_penalty: str, dither: str
) -> None:
    rest = {"samples": samples, "tau": tau, "freq_penalty": freq_penalty, "dither": dither}
    answered(shell, f"generate {FILES} {IDS} --max-new-tokens 4", model=model, k=k, **rest)


@words
@given(WORD, WORD, TEXT)
@example("4", "7", "")
def test_lengths_and_keys_of_generate(shell: Shell, max_new_tokens: str, seed: str, noise_file: str) -> None:
    more = {"noise_file": noise_file} if noise_file else {}
    answered(shell, f"generate --model ar {FILES} {IDS}", max_new_tokens=max_new_tokens, seed=seed, **more)


@words
@given(st.sampled_from(["permutation", "correlation", "noisy-xor", "chain"]) | TEXT, WORD, WORD, WORD)
@example("noisy-xor", "0.1", "0.5", "3")
def test_options_of_a_toy(shell: Shell, toy: str, eps: str, rho: str, length: str) -> None:
    answered(shell, "laws", toy=toy, eps=eps, rho=rho, length=length)


@words
@given(WORDS, WORD, SMALL, WORD, WORD)
def test_options_of_laws_after_a_context(shell: Shell, ids: str, k: str, blocks: str, seed: str, first: str) -> None:
    answered(shell, "laws --pair FOLDER", token_ids=ids, k=k, blocks=blocks, seed=seed, first=first)


@words
@given(TEXT, WORDS, SMALL, SMALL, TEXT)
def test_options_of_a_race(shell: Shell, decoders: str, k: str, batch: str, repeats: str, dtype: str) -> None:
    rest = {"k": k, "batch": batch, "repeats": repeats, "dtype": dtype}
    answered(shell, "bench throughput --pair FOLDER --max-new-tokens 2", decoders=decoders, **rest)
