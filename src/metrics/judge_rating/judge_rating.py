"""The mean rating, 1 to 10, that a judge gives the two turns of each answer (MT-Bench). Higher is better.

Zheng et al. 2023, https://arxiv.org/abs/2306.05685v4; how the judge is asked is in `src/judging`. The answers are left
in `answers.jsonl`, as FastChat's own judge reads them, before the judge is asked; its judgments in `judgments.jsonl`.
"""

import json
from pathlib import Path
from typing import Any

import datasets

from src.judging.client import JudgeConfig
from src.judging.judge import ANSWERS, judge, mean_scores, write_answers
from src.metrics.base import Metric


class JudgeRating(Metric):
    """Mean of a judge's ratings over both turns of all questions, and the means per turn and per category.

    A prediction is the texts of both turns. A reference is a string of JSON with the question's `question_id`,
    `category` and `turns`, the judge's `prompts` by name, and `reference`: a reference answer's turns, or null.
    """

    name = "judge_rating"
    citation = "Zheng et al. 2023, https://arxiv.org/abs/2306.05685"
    unit = "rating"
    takes = "predictions: both turns of each answer; references: questions as JSON"
    features = datasets.Features(
        {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
    )

    def _compute(
        self, predictions: Any, references: Any, judge_config: JudgeConfig, folder: Path, model_id: str
    ) -> dict[str, float]:
        questions = [json.loads(reference) for reference in references]
        answers = {question["question_id"]: turns for question, turns in zip(questions, predictions, strict=True)}
        write_answers(folder / ANSWERS, answers, model_id)
        judgments = judge(
            questions,
            answers,
            config=judge_config,
            prompts={name: prompt for question in questions for name, prompt in question["prompts"].items()},
            references={
                question["question_id"]: question["reference"] for question in questions if question["reference"]
            },
            folder=folder,
            model_id=model_id,
        )
        means = mean_scores(judgments, questions)
        parts = {f"turn_{turn}": mean for turn, mean in means.per_turn.items()} | means.per_category
        return {"judge_rating": means.score, **parts}
