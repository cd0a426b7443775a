"""The shop with its sales report as a long task."""

import shop
from flask import render_template

import longtask


def page(**parts: str) -> str:
    """Put a page of the report into the shop's own frame."""
    return render_template("frame.html", **parts)


app = longtask.mount(shop.app, {"/report": shop.sales_report, "/reports": longtask.ListHandler}, page=page)
