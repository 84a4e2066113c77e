"""The language: text to instructions, stages and their states. Pure; knows neither files nor a worker."""
