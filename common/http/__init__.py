"""HTTP for every process: the server, its protocol, problem documents, input checks."""
