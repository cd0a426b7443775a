"""The kitchen with its menu plan as a long task."""

import kitchen

import longtask


@longtask.function("/report", title="Menu plan")
def report(days, progress):
    """Plan the meals."""
    if int(days) < 1:
        raise longtask.UserError("A plan needs at least one day.")
    return kitchen.menu_plan(days, progress)


app = longtask.mount(kitchen.app, {"/report": report, "/reports": longtask.ListHandler})
