"""Instruction tuning, and what it is tested on: programs (HumanEval) and conversations (MT-Bench).

HumanEval (Chen et al. 2021, arXiv 2107.03374; openai/human-eval) gives the head of a function and tests its body:

    {"task_id": "HumanEval/0", "prompt": "from typing import List\\n\\n\\ndef has_close_elements(...", "entry_point":
     "has_close_elements", "canonical_solution": "    for idx, elem in ...", "test": "\\n\\nMETADATA = {..."}

MT-Bench (Zheng et al. 2023, arXiv 2306.05685; lm-sys/FastChat, fastchat/llm_judge/data) asks twice; the second question
refers to the first answer. Its judge has prompts of its own, and reference answers for mathematics, reasoning and code:

    {"question_id": 81, "category": "writing", "turns": ["Compose an engaging travel blog post ...", "Rewrite ..."]}

Neither has training data: a model is trained on pairs of an instruction and an answer, in the same prompt that asks it
later. These can hold test problems in other words, which the overlap report can't see.
"""

import json

from src.tasks.base import Row, TaskData
from src.tasks.source import DataRecord, Source


def load_humaneval(source: Source, *, instruction: str) -> TaskData:
    """Read instructions and problems; `instruction` is what is asked of a problem's {prompt}."""
    problems = []
    for record in source.records("test"):
        asked = DataRecord({"prompt": record.text("prompt").strip()}, record.location).filled(
            instruction, "task.options.instruction"
        )
        # As JSON in the row, since the metric takes a text for each item.
        reference = {key: record[key] for key in ("prompt", "test", "entry_point")}
        answer = f"\n{record['prompt']}{record.text('canonical_solution')}"
        prompt = _prompt(source, asked, record)
        problems.append({"prompt": prompt, "answer": answer, "reference": json.dumps(reference)})
    return TaskData({"train": _instructions(source), "test": problems}, label_names=[])


def load_mt_bench(source: Source, *, next_turn: str) -> TaskData:
    """Read instructions, questions and what their judge is told; `next_turn` asks each {instruction} but the first."""
    prompts = {record["name"]: dict(record) for record in source.records("judge_prompts")}
    answers = {record["question_id"]: record["choices"][0]["turns"] for record in source.records("references")}
    conversations: list[Row] = []
    for record in source.records("test"):
        # Of the judge's prompts only those that rate one answer; the others compare two.
        reference = {
            **{key: record[key] for key in ("question_id", "category", "turns")},
            "prompts": {name: prompts[name] for name in prompts if name.startswith("single")},
            "reference": answers.get(record["question_id"]),
        }
        first, *others = record["turns"]
        later = [
            DataRecord({"instruction": turn}, record.location).filled(next_turn, "task.options.next_turn")
            for turn in others
        ]
        conversations.append({"turns": [_prompt(source, first, record), *later], "reference": json.dumps(reference)})
    return TaskData({"train": _instructions(source), "test": conversations}, label_names=[])


def _instructions(source: Source) -> list[Row]:
    columns = source.task.columns
    return [
        {
            "prompt": _prompt(source, record.text(columns["instruction"]), record),
            "answer": f"\n{record.text(columns['answer'])}",
        }
        for record in source.records("train")
    ]


def _prompt(source: Source, instruction: str, record: DataRecord) -> str:
    return DataRecord({"instruction": instruction}, record.location).filled(source.task.prompt)
