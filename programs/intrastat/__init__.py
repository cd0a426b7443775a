"""The INTRASTAT report: a long task over a month's invoices."""
