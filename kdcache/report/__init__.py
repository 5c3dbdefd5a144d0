"""The report: tables, Vega-Lite figures and one self-contained HTML page, made from `metrics/` alone."""
