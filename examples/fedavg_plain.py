"""Federated prompt tuning and its personalization, the whole way, in plain Python.

This is what the package computes, without what makes it fast: one client after another, the model's
own forward pass on concatenated embeddings, torch.optim, averaging by hand, greedy decoding of one
example at a time. Read it from top to bottom, then run it:

    python examples/fedavg_plain.py

Every client owns one task, and none is told which: the soft prompt has to carry the task. The tasks ask
different things of the same inputs, so what helps a client on its own data harms it on the others'.
"""

import argparse
from typing import Any, NamedTuple

import torch
from rouge_score.rouge_scorer import RougeScorer

from fedprofit.backbone.load import Backbone, load_backbone
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.lexicon import read

TASKS = ["country_capital", "country_continent", "country_currency", "country_domain", "country_french"]
LOCAL_TEST, GLOBAL_TEST = 5, 2  # test examples of each task in its client's own set and in the global set


class Example(NamedTuple):
    """The model reads [soft prompt][source] and is trained to continue with [target]."""

    source: list[int]
    target: list[int]
    references: list[str]


def make_example(backbone: Backbone, row: dict[str, Any]) -> Example:
    """Turn texts into tokens; the target ends with the end-of-sequence token."""
    source = backbone.tokenizer(f"Input: {row['input']}\nOutput:")["input_ids"]
    target = backbone.tokenizer(f" {row['targets'][0]}", add_special_tokens=False)["input_ids"]
    return Example(source, [*target, backbone.eos_token_ids[0]], row["targets"])


def draw_batches(examples: list[Example], steps: int, size: int, *purpose: Any) -> list[list[Example]]:
    """Draw batches by seed: pass after pass over all examples, each in a fresh order."""
    draw = numpy_generator(*purpose)
    batches: list[list[Example]] = []
    while len(batches) < steps:
        order = draw.permutation(len(examples))
        batches += [[examples[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    return batches[:steps]


def embed(backbone: Backbone, prompt: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Put a soft prompt in front of a text: `[length + tokens, width]`."""
    text = backbone.model.get_input_embeddings()(torch.tensor(tokens))
    return torch.cat([prompt.to(text.dtype), text])


def loss_of(backbone: Backbone, prompt: torch.Tensor, batch: list[Example]) -> torch.Tensor:
    """Mean negative log-likelihood over the target tokens of a batch."""
    inputs = [embed(backbone, prompt, e.source + e.target) for e in batch]
    masks = [torch.ones(len(sequence), dtype=torch.long) for sequence in inputs]
    # -100 marks what the model need not predict: the prompt, the source, and the padding on the right.
    labels = [torch.tensor([-100] * (len(prompt) + len(e.source)) + e.target) for e in batch]
    pad = torch.nn.utils.rnn.pad_sequence
    output = backbone.model(
        inputs_embeds=pad(inputs, batch_first=True),
        attention_mask=pad(masks, batch_first=True),
        labels=pad(labels, batch_first=True, padding_value=-100),
    )
    loss: torch.Tensor = output.loss
    return loss


def train(backbone: Backbone, start: torch.Tensor, batches: list[list[Example]], rate: float) -> torch.Tensor:
    """Train a prompt from `start`, one step of Adam a batch; the model stays frozen."""
    prompt = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([prompt], lr=rate)
    for batch in batches:
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(backbone, prompt, batch))
        optimizer.step()
    return prompt.detach()


def answer(backbone: Backbone, prompt: torch.Tensor, example: Example, tokens: int) -> str:
    """Continue one example greedily until end of sequence, or by so many tokens at most."""
    inputs = embed(backbone, prompt, example.source)[None]
    mask, stop = torch.ones(inputs.shape[:2], dtype=torch.long), backbone.eos_token_ids
    model: Any = backbone.model
    ends = {"max_new_tokens": tokens, "eos_token_id": stop, "pad_token_id": stop[0]}
    new = model.generate(inputs_embeds=inputs, attention_mask=mask, do_sample=False, **ends)
    return str(backbone.tokenizer.decode(new[0], skip_special_tokens=True)).strip()


@torch.no_grad()
def score(backbone: Backbone, prompt: torch.Tensor, examples: list[Example], tokens: int) -> torch.Tensor:
    """Return the loss per target token, and ROUGE-L: 0 to 100, best over references, mean over examples."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rouge = 0.0
    for example in examples:
        text = answer(backbone, prompt, example, tokens)
        rouge += max(scorer.score(reference, text)["rougeL"].fmeasure for reference in example.references)
    return torch.tensor([loss_of(backbone, prompt, examples), 100 * rouge / len(examples)])


def main() -> None:
    """Train, personalize, score, print."""
    parser = argparse.ArgumentParser(description="Federated prompt tuning and personalization, plainly.")
    parser.add_argument("--model", default="smollm2-135m-q4", help="a named backbone, or a folder")
    parser.add_argument("--clients", type=int, default=4, choices=range(1, len(TASKS) + 1))
    parser.add_argument("--cohort", type=int, default=3, help="clients a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4, help="local steps a round")
    parser.add_argument("--batch", type=int, default=4, help="examples a step")
    parser.add_argument("--length", type=int, default=10, help="vectors of the soft prompt")
    parser.add_argument("--rate", type=float, default=0.03, help="of federated training")
    parser.add_argument("--personal-steps", type=int, default=12)
    parser.add_argument("--personal-rate", type=float, default=0.01)
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    backbone = load_backbone(args.model)
    torch.set_default_device(backbone.device)

    # Data. Train client k and test client k own the same task, with different examples of it.
    train_clients, test_clients, tests = [], [], []
    for task in TASKS[: args.clients]:
        rows = read(tasks=[task], instances=80).to_pylist()
        own = [make_example(backbone, row) for row in rows if row["split"] == "train"]
        train_clients.append(own[0::2])
        test_clients.append(own[1::2])
        tests.append([make_example(backbone, row) for row in rows if row["split"] == "test"][:LOCAL_TEST])
    everybody = [example for test in tests for example in test[:GLOBAL_TEST]]

    # The prompt starts as the embeddings of random words, float32 whatever the model's type.
    words = numpy_generator(args.seed, "prompt").integers(len(backbone.tokenizer), size=args.length)
    start = embed(backbone, torch.empty(0, backbone.width), words.tolist()).float()

    # Federated training: FedAvg (McMahan et al. 2017), weighted by examples.
    federated = start
    for number in range(1, args.rounds + 1):
        cohort = sorted(numpy_generator(args.seed, "cohort", number).permutation(args.clients)[: args.cohort])
        change, weight = torch.zeros_like(start), 0
        for k in cohort:
            own = train_clients[k]
            batches = draw_batches(own, args.steps, args.batch, args.seed, "train", number, int(k))
            change += len(own) * (train(backbone, federated, batches, args.rate) - federated)
            weight += len(own)
        federated = federated + change / weight
        print(f"round {number}: clients {[int(k) for k in cohort]}, moved by {(change / weight).norm():.3f}")

    # Personalization: each test client fine-tunes the federated prompt on its own data.
    personal = []
    for k, own in enumerate(test_clients):
        batches = draw_batches(own, args.personal_steps, args.batch, args.seed, "personalize", k)
        personal.append(train(backbone, federated, batches, args.personal_rate))

    # The trade-off: each client's prompt (or one for all) on its own test set, and on everybody's.
    prompts = {
        "base model, no prompt": [start[:0]],
        "federated prompt": [federated],
        "personalized": personal,
        "halfway between": [(prompt + federated) / 2 for prompt in personal],
    }
    print(f"\n{'mean over clients':24}{'local loss':>12}{'ROUGE-L':>9}{'global loss':>13}{'ROUGE-L':>9}")
    for name, some in prompts.items():
        local = [score(backbone, some[k % len(some)], test, args.tokens) for k, test in enumerate(tests)]
        whole = [score(backbone, prompt, everybody, args.tokens) for prompt in some]
        a, b, c, d = torch.cat([torch.stack(local).mean(0), torch.stack(whole).mean(0)]).tolist()
        print(f"{name:24}{a:12.3f}{b:9.1f}{c:13.3f}{d:9.1f}")


if __name__ == "__main__":
    main()
