"""The warehouse with its stocktaking as a long task."""

from collections.abc import Callable

import warehouse

import longtask


@longtask.function("/report", title="Stock report")
async def report(aisle: str, progress: Callable[..., None]) -> str:
    """Count the stock of an aisle."""
    if aisle not in warehouse.AISLES:
        raise longtask.UserError(f"There is no aisle {aisle}.")
    return await warehouse.count_stock(aisle, progress)


app = longtask.mount(warehouse.app, {"/report": report, "/reports": longtask.ListHandler})
