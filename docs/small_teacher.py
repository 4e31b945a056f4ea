"""Trains the small Llama of YOUR_MODEL.md with transformers and a plain loop.

python docs/small_teacher.py TEXTS TOKENIZER.JSON OUT [STEPS]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

texts, tokenizer_file, out, *rest = sys.argv[1:]
steps, batch, length = int((rest or [700])[0]), 8, 256
tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file, eos_token="<|endoftext|>")
stories = [file.read_text() + tokenizer.eos_token for file in sorted(Path(texts).glob("*.txt"))]
tokens = torch.tensor([i for ids in tokenizer(stories)["input_ids"] for i in ids])

torch.manual_seed(0)
shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "max_position_embeddings": length}
heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True}
end = tokenizer.eos_token_id
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **shape, **heads))
matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
others = [p for name, p in model.named_parameters() if p.ndim < 2 or "layers" not in name]
optimizers = [torch.optim.Muon(matrices, lr=4e-3, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, lr=4e-3)]
begins = torch.cat([torch.zeros(1, dtype=torch.int64), (tokens == end).nonzero()[:, 0] + 1])
begins, random, since = begins[begins < len(tokens) - length], np.random.default_rng(0), time.time()
for step in range(steps):
    rows = torch.stack([tokens[s : s + length] for s in begins[random.integers(0, len(begins), batch)]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(rows, labels=rows).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 50, (steps - step) / (0.7 * steps))
        optimizer.step()
        optimizer.zero_grad()
    if step % 50 == 49:
        print(f"{step + 1} steps, {time.time() - since:.0f} s, loss {loss.item():.3f}", flush=True)
        model.save_pretrained(out)
tokenizer.save_pretrained(out)
