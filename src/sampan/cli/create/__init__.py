"""From the flags of `run` and `create` to the JSON of POST /containers/create. Pure but for the files flags name."""
