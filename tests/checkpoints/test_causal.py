"""A transformers model as a teacher: its distributions are that library's own, and its exact map is theirs unrolled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CAUSAL, save_causal
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from kfexplore.checkpoints.causal import is_causal, load_causal
from kfexplore.checkpoints.families import LAYER_TYPES
from kfexplore.checkpoints.registry import pair_parts
from kfexplore.checkpoints.tokenizers import load_tokenizer
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, reference
from kfexplore.errors import KfError
from kfexplore.laws.exact import TeacherTree
from kfexplore.maps import PrefilledContext
from kfexplore.models import CausalLM
from kfexplore.pair import load_pair

from .hostile_causal import CAUSAL as HOSTILE
from .hostile_weights import RAN

CPU = torch.device("cpu")
IDS = [3, 1, 4, 1, 5]
FAMILIES = [*CAUSAL]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CausalLM]:
    """The library's own model, and ours of its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    return save_causal(folder, request.param), load_causal(folder, CPU)


def changed(folder: Path, **settings: Any) -> Path:
    """A folder with another config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def test_distributions_are_those_of_the_library(both: tuple[Any, CausalLM]) -> None:
    theirs, ours = both
    ids = torch.randint(0, 24, (3, 20), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids).logits.log_softmax(dim=-1)
    assert expected.exp().max(dim=-1).values.mean() > 0.15  # tokens matter
    assert torch.allclose(ours.log_probs(ids), expected, atol=2e-5)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_the_exact_map_is_the_librarys_distributions_unrolled(both: tuple[Any, CausalLM]) -> None:
    theirs, ours = both
    u = np.random.default_rng(0).random((12, 5))
    tokens, edges = PrefilledContext(ours, None, torch.tensor(IDS)).exact(u)
    for noise, found, gaps in zip(u, tokens, edges, strict=True):
        row = list(IDS)
        for value, token, gap in zip(noise, found, gaps, strict=True):
            law = theirs(torch.tensor([row])).logits[0, -1].double().softmax(dim=-1).numpy()
            if gap > 1e-5:  # nearer, the rounding of another path may turn it
                assert token == np.searchsorted(law.cumsum(), value)
            row.append(int(token))


def test_the_map_is_the_same_alone_and_in_any_batch(both: tuple[Any, CausalLM]) -> None:
    here, u = PrefilledContext(both[1], None, torch.tensor(IDS)), np.random.default_rng(1).random((60, 4))
    together = here.exact(u)[0]
    assert np.array_equal(here.exact(u[::-1])[0], together[::-1])
    assert np.array_equal(np.concatenate([here.exact(row[None])[0] for row in u[:20]]), together[:20])


def test_distributions_of_a_block_are_those_of_the_whole_row(both: tuple[Any, CausalLM]) -> None:
    tree, blocks = TeacherTree(both[1], np.array(IDS)), np.array([[2, 7, 1], [9, 9, 9], [2, 7, 3]])
    for block, found in zip(blocks, tree.log_probs(blocks), strict=True):
        law = both[0](torch.tensor([[*IDS, *block]])).logits[0].log_softmax(dim=-1)
        assert found == pytest.approx(
            sum(float(law[len(IDS) - 1 + j, token]) for j, token in enumerate(block)), abs=1e-4
        )


@pytest.mark.parametrize("config", [DecodeConfig("ar"), DecodeConfig("jacobi", k=3, guess="nothing")])
def test_decoders_write_what_the_library_would(both: tuple[Any, CausalLM], config: DecodeConfig) -> None:
    """Rows of several lengths, in one batch, against the slow twin over the library's own model."""
    prompts, noise = [IDS, [2], [7, 7, 7]], np.random.default_rng(2).random((3, 12))

    class Plain:
        config, device, dtype = both[1].config, both[1].device, both[1].dtype

        def __call__(self, ids: torch.Tensor) -> torch.Tensor:
            return both[0](ids).logits

    networks = Networks(teacher=both[1])
    slow = reference(DecodeConfig("ar"), Networks(teacher=Plain()), prompts, noise, 12)  # type: ignore[arg-type]
    assert np.array_equal(generate(config, networks, prompts, noise, 12).tokens, slow)


def test_a_folder_of_transformers_is_a_teacher_alone(tmp_path: Path) -> None:
    save_causal(tmp_path)
    parts = pair_parts(tmp_path)
    assert (parts.teacher, parts.student, parts.tokenizer) == (tmp_path, None, None)
    pair = load_pair(tmp_path)
    assert pair.block([IDS], [[0.1, 0.9]]).teacher.shape == (1, 2)
    pair.save_pretrained(tmp_path / "copy")
    assert is_causal(tmp_path / "copy" / "teacher")
    assert torch.equal(load_pair(tmp_path / "copy").teacher(torch.tensor([IDS])), pair.teacher(torch.tensor([IDS])))


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_earlier_versions_are_read(tmp_path: Path, family: str) -> None:
    """Without the body's prefix, with the head's earlier name, and with masks as weights, in two files."""
    theirs = save_causal(tmp_path, family)
    state, body = load_file(tmp_path / "model.safetensors"), theirs.base_model_prefix + "."
    state = {name.removeprefix(body).replace("lm_head", "embed_out"): tensor for name, tensor in state.items()}
    mask, last = torch.ones(1, 1, 48, 48).bool(), list(state)[-1]
    masks = {"h.0.attn.bias": mask, "layers.0.attention.masked_bias": torch.tensor(-1e9)}
    (tmp_path / "model.safetensors").unlink()
    save_file({last: state.pop(last)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file(state | masks, tmp_path / "model-00002-of-00002.safetensors")
    ids = torch.tensor([IDS])
    assert torch.allclose(load_causal(tmp_path, CPU)(ids), theirs(ids).logits, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_head_may_be_the_embedding(tmp_path: Path, family: str, tied: bool) -> None:
    theirs, ids = save_causal(tmp_path, family, tie_word_embeddings=tied), torch.tensor([IDS])
    head = {"lm_head.weight", "embed_out.weight"} & load_file(tmp_path / "model.safetensors").keys()
    assert len(head) == (not tied)
    assert torch.allclose(load_causal(tmp_path, CPU)(ids), theirs(ids).logits, atol=2e-4)


def test_settings_that_decide_what_is_computed_are_handed_on(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    linear = {"rope_type": "linear", "rope_theta": 50.0, "factor": 4.0}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("llama", {"rope_parameters": rope | {"original_max_position_embeddings": 16}}),
        ("llama", {"rms_norm_eps": 0.3, "head_dim": 16, "attention_bias": True, "mlp_bias": True}),
        ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "relu", "layer_norm_eps": 0.3}),
        ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}}),
        ("gpt2", {"scale_attn_weights": False, "activation_function": "relu", "layer_norm_epsilon": 0.3}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 24}),
        ("qwen2", {"num_key_value_heads": None}),
        ("mistral", {"head_dim": 16, "rms_norm_eps": 0.3}),
        ("qwen2", {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
        ("qwen3", {"head_dim": 6, "attention_bias": True, "hidden_act": "relu"}),
        ("gemma2", {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 4}),
        ("gemma2", {"attn_logit_softcapping": None, "query_pre_attn_scalar": 1}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"hidden_activation": "relu"}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("gemma3_text", {"layer_types": ["full_attention"] * 2}),
        ("gemma3_text", {"rope_parameters": dict.fromkeys(LAYER_TYPES, linear)}),
    ]
    ids = torch.arange(24)[None]
    for n, (family, settings) in enumerate(cases):
        theirs = save_causal(tmp_path / str(n), family, **settings)
        plain = save_causal(tmp_path / f"{n} plain", family)
        expected = theirs(ids).logits
        assert not torch.allclose(plain(ids).logits, expected, atol=1e-2)  # they matter
        assert torch.allclose(load_causal(tmp_path / str(n), CPU)(ids), expected, atol=2e-4), settings


def test_earlier_names_of_angles_are_understood(tmp_path: Path) -> None:
    theirs, ids = save_causal(tmp_path, "llama", rope_parameters={"rope_type": "default", "rope_theta": 50.0}), [IDS]
    changed(tmp_path, rope_parameters=None, rope_theta=50.0, rope_scaling=None)
    assert torch.allclose(load_causal(tmp_path, CPU)(torch.tensor(ids)), theirs(torch.tensor(ids)).logits, atol=2e-4)


def test_names_of_angles_that_gemma_3_is_published_with_are_understood(tmp_path: Path) -> None:
    rope = {"full_attention": 50.0, "sliding_attention": 7.0}
    rope_parameters = {name: {"rope_type": "default", "rope_theta": theta} for name, theta in rope.items()}
    theirs = save_causal(tmp_path, "gemma3_text", rope_parameters=rope_parameters, num_hidden_layers=3)
    assert theirs.config.layer_types == ["sliding_attention"] * 3
    published = {"rope_theta": 50.0, "rope_local_base_freq": 7.0, "sliding_window_pattern": 2, "rope_scaling": None}
    changed(tmp_path, rope_parameters=None, layer_types=None, **published)
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([IDS])
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
    assert not torch.allclose(expected, theirs(ids).logits, atol=1e-2)
    assert torch.allclose(load_causal(tmp_path, CPU)(ids), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("family", "settings", "context"),
    [
        ("mistral", {"sliding_window": 8}, 8),
        ("mistral", {"sliding_window": None}, 48),
        ("qwen2", {"sliding_window": 8}, 48),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}, 48),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, 8),
        ("qwen3", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, 8),
        ("gemma2", {"sliding_window": 8}, 8),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, 8),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["full_attention", "full_attention"]}, 48),
    ],
)
def test_a_context_ends_where_a_layer_would_no_longer_see_all_of_it(
    tmp_path: Path, family: str, settings: dict[str, Any], context: int
) -> None:
    theirs, ours = save_causal(tmp_path, family, **settings), load_causal(tmp_path, CPU)
    assert ours.config.context == context
    ids = torch.arange(context)[None] % 24
    assert torch.allclose(ours(ids), theirs(ids).logits, atol=2e-4)
    with pytest.raises(KfError, match=f"has {context + 1} tokens"):
        ours(torch.zeros(1, context + 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("family", "prefix"), [("gpt2", "_orig_mod."), ("llama", "module._orig_mod."), ("gpt2", "model.")]
)
def test_what_training_puts_around_a_model_is_dropped(tmp_path: Path, family: str, prefix: str) -> None:
    theirs, file = save_causal(tmp_path, family), tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    ids = torch.tensor([IDS])
    assert torch.allclose(load_causal(tmp_path, CPU)(ids), theirs(ids).logits, atol=2e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_an_embedding_may_be_the_head(tmp_path: Path, family: str) -> None:
    theirs, file = save_causal(tmp_path, family, tie_word_embeddings=True), tmp_path / "model.safetensors"
    state, ids = load_file(file), torch.tensor([IDS])
    (embedding,) = [name for name in state if name.endswith(("wte.weight", "embed_tokens.weight"))]
    save_file({"lm_head.weight" if name == embedding else name: tensor for name, tensor in state.items()}, file)
    assert torch.allclose(load_causal(tmp_path, CPU)(ids), theirs(ids).logits, atol=2e-4)
    changed(tmp_path, tie_word_embeddings=False)
    with pytest.raises(KfError, match=r"missing: .*(wte|embed_tokens)\.weight"):
        load_causal(tmp_path, CPU)


def test_an_unused_token_above_the_rows_is_refused_in_a_prompt_only(tmp_path: Path) -> None:
    save_causal(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({chr(97 + n): n for n in range(24)}, "a"))
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pair = load_pair(tmp_path)
    assert pair.block([pair.encode("c")[0]], [[0.1, 0.9]]).teacher.shape == (1, 2)
    with pytest.raises(KfError, match="Token id 24 is not in the vocabulary"):
        pair.prefill(pair.encode("<pad>")[0])


def test_a_tokenizer_of_the_slow_kind_is_reported_when_text_is_requested(tmp_path: Path) -> None:
    save_causal(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    pair = load_pair(tmp_path)
    assert pair.block([IDS], [[0.1]]).teacher.shape == (1, 1)
    for asked in (lambda: pair.encode("a"), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(KfError, match=r"only a slow tokenizer: tokenizer\.model"):
            asked()


@pytest.mark.parametrize(
    "name",
    [
        "transformers: a pickle named as safetensors",
        "transformers: code of its own",
        "transformers: a vocabulary of 10^9",
        "transformers: layers of a kind of their own",
        "transformers: a weight without end",
    ],
)
def test_a_hostile_model_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    """In short what `test_hostile` tries of all inputs, under limits."""
    path = HOSTILE[name].build(tmp_path)
    with pytest.raises(KfError, match=HOSTILE[name].says):
        load_pair(path)
    assert not list(tmp_path.rglob(RAN))


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    save_causal(tmp_path)
    made = load_causal(tmp_path, CPU)
    made.network.transformer.wte.weight[7] = torch.nan
    with pytest.raises(KfError, match="logits are not finite"):
        made(torch.tensor([[7]]))
