"""The shapes of the protocols that other people wrote, for /openapi.json.

The routes do not run these models: they read and write the same shapes by hand, and tests hold
their replies against them. Of what a protocol allows, only what is read here is named.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.types import Reason, Route, Wish


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True)  # what is not read is ignored, as the protocols have it


class TeiRequest(BaseModel):
    """A text, or a batch of them; of the form of Text Embeddings Inference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str | list[str | list[str]]
    raw_scores: bool | None = Field(default=False, description="true is refused")
    truncate: bool | None = Field(
        default=False, description="what is too long for the student goes to the teacher anyway"
    )
    truncation_direction: Any = None
    model: str | None = Field(default=None, description="the task, where there are several")
    task: str | None = Field(default=None, description="the same")
    head: str | None = Field(default=None, description="without it the first choice")
    parameters: dict[str, None] | None = Field(
        default=None, description="of the Hugging Face inference API: the reply is then a batch"
    )


class TeiScore(_Reply):
    """A label and its calibrated probability."""

    score: float
    label: str


TeiReply = list[TeiScore] | list[list[TeiScore]]


class TeiClassifier(_Reply):
    """The labels of one head."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class TeiModelType(_Reply):
    """What kind of model this is."""

    classifier: TeiClassifier


class TeiInfo(_Reply):
    """What serves, and its limits."""

    model_id: str = Field(description="the task")
    model_sha: str | None = Field(description="id of the bundle; null: there is no student")
    model_dtype: str
    model_type: TeiModelType
    max_concurrent_requests: int
    max_input_length: int = Field(description="tokens that the student reads")
    max_batch_tokens: int
    max_batch_requests: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


class TeiError(_Reply):
    """What went wrong, and how to mend it."""

    error: str
    error_type: Literal["backend", "overloaded", "unhealthy", "validation"]


class OipTensor(_Request):
    """The input: one text an element. `data`, or `parameters.binary_data_size`."""

    name: str
    datatype: Literal["BYTES"]
    shape: list[int] = Field(min_length=1, max_length=2, description="[n] or [n, 1]")
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class OipRequestedOutput(_Request):
    """An output that is wanted; `parameters.binary_data` says how."""

    name: str
    parameters: dict[str, Any] | None = None


class OipParameters(_Request):
    """On what terms. A client may send plain values under names of its own, which are not read."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool | None]

    route: Wish | None = None
    priority: Literal["high", "normal"] | int | None = None
    deadline_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    timeout: int | None = Field(
        default=None, ge=0, le=3_600_000_000, description="microseconds; 0: none"
    )
    binary_data_output: bool | None = None


class OipRequest(_Request):
    """One tensor of texts."""

    id: str | None = Field(default=None, min_length=1, description="comes back")
    inputs: list[OipTensor] = Field(min_length=1, max_length=1)
    outputs: list[OipRequestedOutput] | None = None
    parameters: OipParameters | None = None


class OipOutput(_Reply):
    """An output; `data`, or `parameters.binary_data_size`."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    data: list[str] | list[float] | None = None
    parameters: dict[str, int] | None = None


class OipReply(_Reply):
    """The answers, a tensor for each output."""

    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[OipOutput]


class OipServer(_Reply):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class OipLive(_Reply):
    """Whether the process can still answer."""

    live: bool


class OipReady(_Reply):
    """Whether requests may be sent here."""

    ready: bool


class OipModelReady(_Reply):
    """Whether requests of a task may be sent here."""

    name: str
    ready: bool


class OipTensorAbout(_Reply):
    """A tensor without its data; -1: any number."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]


class OipModel(_Reply):
    """A task and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[OipTensorAbout]
    outputs: list[OipTensorAbout]


class OipIndexRequest(_Request):
    """Which models to name."""

    ready: bool | None = Field(default=False, description="only what may be asked")


class OipIndexEntry(_Reply):
    """A version that serves."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class OipLoadParameters(BaseModel):
    """Which bundle is to serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str | None = Field(default=None, min_length=1)


class OipLoadRequest(_Request):
    """Without a bundle nothing changes."""

    parameters: OipLoadParameters | None = None


class OipError(_Reply):
    """What went wrong, and how to mend it."""

    error: str


class More(_Reply):
    """What OpenAI's shapes have no place for."""

    id: str = Field(description="of the stored record")
    route: Route
    reason: Reason
    score: float = Field(description="probability that all heads are right")
    bundle: str = Field(description="id of the bundle that answered, or the teacher's name")
    cost_usd: float | None = Field(description="null is unknown")


class Wishes(_Request):
    """On what terms; under the key `understudy`."""

    route: Wish | None = None
    priority: Literal["high", "normal"] | None = None
    deadline_ms: float | None = Field(default=None, gt=0, le=3_600_000)


class OpenAiModel(_Reply):
    """A task as a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAiModels(_Reply):
    """All tasks as models."""

    object: Literal["list"]
    data: list[OpenAiModel]


class Part(_Request):
    """A part of a text."""

    type: Literal["text"]
    text: str


class Message(_Request):
    """A message; only the last one of the user is read."""

    role: str
    content: str | list[Part] | None = None


class ResponseFormat(_Request):
    """JSON of either kind gives an object of heads."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class StreamOptions(_Request):
    """What a stream ends with."""

    include_usage: bool | None = None


class ChatRequest(_Request):
    """A chat. Settings of sampling are ignored: nothing is sampled."""

    model: str | None = Field(default=None, description="the task, where there are several")
    messages: list[Message] = Field(min_length=1)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    understudy: Wishes | None = None


class Said(_Reply):
    """The label, or heads and labels as JSON."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(_Reply):
    """The one completion."""

    index: Literal[0]
    message: Said
    logprobs: None
    finish_reason: Literal["stop"]


class Usage(_Reply):
    """Tokens of the student's tokenizer, as far as the student reads."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(_Reply):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="the bundle that answered")
    choices: list[Choice]
    usage: Usage | None = Field(description="null: there is no student, whose tokens count")
    understudy: More


class ModerationRequest(_Request):
    """Texts to flag."""

    model: str | None = Field(default=None, description="a task with flags")
    input: str | list[str] | list[Part]
    understudy: Wishes | None = None


class Moderation(_Reply):
    """The flags of one text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    understudy: More


class Moderations(_Reply):
    """The flags of each text."""

    id: str
    model: str
    results: list[Moderation]


class OpenAiProblem(_Reply):
    """What went wrong, where, and how to mend it."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class OpenAiError(_Reply):
    """An error as OpenAI says it."""

    error: OpenAiProblem
