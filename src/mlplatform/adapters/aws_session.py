"""The AWS SDK's own configuration, as every adapter of AWS begins."""

from __future__ import annotations

from botocore import exceptions as sdk
from botocore.session import Session

from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL

_LENGTH_MAX = 300


def open_session(url: StoreURL, where: str) -> Session:
    """The configuration of the URL's `profile`, or of the environment; no credentials are looked
    for before they are needed. `UsageError` begins with `where`."""
    profile = url.options.get("profile")
    try:
        session = Session(profile=profile)
        session.get_config_variable("region")  # reads the files
    except sdk.ProfileNotFound as error:
        raise UsageError(
            f"{where}: there is no profile {profile!r}",
            hint="aws configure list-profiles shows those that there are",
        ) from error
    except sdk.BotoCoreError as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())[:_LENGTH_MAX]}") from error
    return session
