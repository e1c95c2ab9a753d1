"""Two libraries in use: what `edgewise serve` and `edgewise evaluate` run of an artefact with libraries.json."""

from edgewise.experience.spec import ExperienceSpec
from edgewise.mas.two_level.config import DEPLOYED, TwoLevelConfig
from edgewise.mas.two_level.delegation import DelegationSpec, run_planner, sub_rollouts
from edgewise.mas.two_level.libraries import FILE, TOOLS_FILE, TwoLibraries
from edgewise.mas.two_level.system import TwoLevelSpec, build_agents, measure_rows
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.model.names import get_server
from edgewise.toolkit.model.openai_format import build_refusal
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import Config, resolve_config
from edgewise.toolkit.run.driver import ModelClient, drive
from edgewise.toolkit.serve.server import Answer, merge_sampling
from edgewise.toolkit.tools.python_tool import python_tool
from edgewise.toolkit.types import Example, Group, Message, Plan, Reply, Request

PYTHON = "python"
"""The only tool that is there without its task."""


def measure_artifact(artifact: Artifact, lessons: ExperienceSpec) -> Plan[list[Group]]:
    """Run an artefact's planner and sub-agents on the test rows, with model, samples and judge of the other arms."""
    shared = {name: getattr(lessons.config, name) for name in Config.model_fields}
    own = TwoLevelConfig.from_artifact(artifact.settings)
    check_server(own.sub_model, lessons.config.model)
    own_settings = {name: getattr(own, name) for name in DEPLOYED}
    config = resolve_config(TwoLevelConfig, shared, own_settings, {"judge": lessons.judge})
    libraries = TwoLibraries.from_json(artifact.files[FILE])
    return (yield from measure_rows(TwoLevelSpec(lessons.task, config), libraries, lessons.task.test))


def check_server(sub_model: str, model: str) -> None:
    """Raise ArtifactError where an artefact would send the sub-agents' prompts, and a key, to another server."""
    if sub_model and get_server(sub_model) != get_server(model):
        raise ArtifactError(
            f"The artefact sends its sub-agents' prompts to {sub_model}, not to that of {model}: an artefact "
            "may not choose another server. Evaluate or serve it with --model on the same server."
        )


def build_answerer(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """
    Return a function that answers a conversation by a planner and its sub-agents, for `edgewise serve`.

    Raises ArtifactError where the sub-agents were measured with a tool of the user's: an artefact holds no code.
    """
    config = TwoLevelConfig.from_artifact(artifact.settings).model_copy(update={"model": model})
    check_server(config.sub_model, model)
    libraries = TwoLibraries.from_json(artifact.files[FILE])
    delegation = DelegationSpec(config.sub_roles, config.delegations)
    names = artifact.files.get(TOOLS_FILE, [])
    if missing := [name for name in names if name != PYTHON]:
        raise ArtifactError(
            f"The sub-agents were measured with tools of their task that are missing here: {', '.join(missing)}."
        )
    tools = (python_tool(),) if names else ()

    async def answer(request: Request) -> Reply:
        if request.tools or request.schema:
            return build_refusal(
                "a planner can't be asked for calls of tools or for JSON of some form, as it delegates: leave out "
                "tools and response_format"
            )
        sampling = merge_sampling(request, artifact.sampling)
        agents = build_agents(config, tools, libraries, sampling, request.payer.role)
        row = Example("request", request.messages)
        seed = request.sampling.seed or 0
        rollout = await drive(run_planner(*agents, row, delegation, sample=0, seed=seed), client)

        usage = sum((sub.usage for sub in sub_rollouts(rollout)), rollout.usage)
        if rollout.failed:
            return Reply(Message("assistant", ""), rollout.stop, usage, error=rollout.error)
        return Reply(Message("assistant", rollout.answer), usage=usage)

    return answer
