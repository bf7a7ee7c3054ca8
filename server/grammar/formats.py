"""The formats of dates, times and durations, as clients can read every text of them.

What llguidance knows by these names includes the year 0, leap seconds and durations of any length,
which Python and others refuse. Knows no schemas.
"""

from __future__ import annotations

from collections.abc import Mapping

# A year, 0001 to 9999, and those of them that have a 29 February.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"([0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_DAY = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR_AND_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
# Microseconds are the most that Python keeps.
_TIME = rf"{_HOUR_AND_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+\-]{_HOUR_AND_MINUTE})"
# All parts of so many digits together stay below the 999,999,999 days of Python's timedelta.
_NUMBER = "[0-9]{1,6}"
_DAYS = f"{_NUMBER}D"
_MONTHS = f"{_NUMBER}M({_DAYS})?"
_YEARS = f"{_NUMBER}Y({_MONTHS})?"
_MINUTES = f"{_NUMBER}M({_NUMBER}S)?"
_CLOCK = f"T({_NUMBER}H({_MINUTES})?|{_MINUTES}|{_NUMBER}S)"

# The pattern of a whole text, by the name of its format.
PATTERNS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P(({_YEARS}|{_MONTHS}|{_DAYS})({_CLOCK})?|{_CLOCK}|{_NUMBER}W)$",
}
