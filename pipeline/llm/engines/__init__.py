"""Who answers requests: one module per engine, all used by `pipeline.llm.complete` alone."""
