"""Settings of algorithms that come from outside the package. Importing this imports no torch; the plug-in may."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from preceptor.common.errors import PreceptorError
from preceptor.learner.algorithms.registry import algorithm_class
from preceptor.learner.run_configs.update import UpdateConfig

PLUGIN_SECTION = "settings"


def plugin_settings(name: str, values: Mapping[str, Any]) -> UpdateConfig:
    """Returns the settings of the plug-in algorithm `name`, checked by its own class.

    Raises:
        ValueError: there is no such algorithm, or a setting is wrong; names it.
    """
    try:
        config: UpdateConfig = algorithm_class(name).settings.model_validate(values)
    except PreceptorError as error:
        raise ValueError(error.message) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([PLUGIN_SECTION, *(str(step) for step in first["loc"])])
        raise ValueError(f"{where}: {first['msg']}") from error
    return config
