"""
Table of names that are imported when they are first used.

A lower package may need code of a higher one: the command line starts a trainer, the server answers with a graph. It
finds that code here by name, so that no file imports upwards and importing Edgewise stays fast. A target is
"module:name", or "module" where the caller needs several names of it.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.util.import_by_name import did_you_mean

Table = Mapping[str, str]

# What `edgewise improve --by WAY` runs.
WAYS: Table = {
    "experience": "edgewise.experience.commands.improve:ImproveExperience",
    "graph": "edgewise.mas.commands.improve:ImproveGraph",
    "weights": "edgewise.learner.commands.improve:ImproveWeights",
}

# Functions behind the other commands, by the words after `edgewise`.
COMMANDS: Table = {
    "absorb": "edgewise.learner.commands.absorb:AbsorbCommand",
    "compare": "edgewise.learner.commands.compare:CompareCommand",
    "evaluate": "edgewise.mas.commands.evaluate:evaluate",
    "graph diff": "edgewise.mas.commands.graph:compare",
    "graph export": "edgewise.mas.commands.export:command",
    "graph roles": "edgewise.mas.commands.graph:roles",
    "graph show": "edgewise.mas.commands.graph:show",
    "library diff": "edgewise.experience.commands.library:compare",
    "library export": "edgewise.experience.commands.library:export",
    "library import": "edgewise.experience.commands.library:import_library",
    "library lock": "edgewise.experience.commands.library:lock",
    "library log": "edgewise.experience.commands.library:log",
    "library merge": "edgewise.experience.commands.library:merge_libraries",
    "library rollback": "edgewise.experience.commands.library:rollback",
    "library show": "edgewise.experience.commands.library:show",
    "methods": "edgewise.learner.commands.methods:methods",
    "models list": "edgewise.toolkit.cli.models:ModelList",
    "models pull": "edgewise.toolkit.cli.models:pull_model",
    "report": "edgewise.toolkit.report.run_report:write_report",
    "serve": "edgewise.toolkit.cli.serve:serve",
}

# What answers requests with an artefact, by the file that the artefact holds; the first file that is there counts.
ANSWERERS: Table = {
    "graph.json": "edgewise.mas.deploy.agent_graph:answerer",
    "nodes.json": "edgewise.mas.adopt.answerer:build_answerer",
    "libraries.json": "edgewise.mas.two_level.answerer:build_answerer",
    "library.json": "edgewise.experience.prompting.answerer:build_answerer",
    "weights.json": "edgewise.toolkit.serve.server:answer_with_weights",
}

# Modules with a client for models of this process, by the prefix of the model's name.
MODEL_CLIENTS: Table = {"torch": "edgewise.learner.sampling.torch_client"}

# Sections of report.html, by the file in the run directory or the artefact that only runs of one way have; the first
# file that is there counts, and the entry without a file is for all other runs.
REPORT_SECTIONS: Table = {
    "weights.json": "edgewise.learner.monitoring.report:build_sections",
    "wiring.json": "edgewise.mas.training.report:build_sections",
    "libraries.json": "edgewise.mas.two_level.report:build_sections",
    "": "edgewise.experience.training.report:build_sections",
}

# Functions that tell whether an artefact holds anything that was learned, by its file, from the content of the file.
LEARNED_CONTENT: Table = {"library.json": "edgewise.experience.training.report:has_lessons"}

# Readers of lessons for callers that only need the prompts which the lessons make.
PROMPT_LIBRARIES: Table = {"lessons": "edgewise.experience.prompting.prompt_source:load_prompt_library"}

# Built-in environments, by the `kind` in a task file.
ENVIRONMENTS: Table = {
    "house": "edgewise.toolkit.environments.house:House",
    "kitchen": "edgewise.toolkit.environments.kitchen:Kitchen",
    "textworld": "edgewise.toolkit.environments.textworld:TextWorld",
}


def resolve(table: Table, key: str) -> Any:
    """
    Import the target of `key`.

    Raises ConfigError for a key that the table lacks, ModuleNotFoundError for a package that is not installed.
    """
    if key not in table:
        raise ConfigError(f"There is no {key!r} to be found by name{did_you_mean(key, list(table))}.")
    module, _, name = table[key].partition(":")
    home = importlib.import_module(module)
    return getattr(home, name) if name else home
