"""Rankings to figures: lexical baseline, fusion, metrics, significance, the shipping gate and the report."""
