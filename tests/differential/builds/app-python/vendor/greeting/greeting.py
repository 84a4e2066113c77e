GREETING = "hello from Python"
