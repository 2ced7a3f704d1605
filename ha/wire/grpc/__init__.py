"""gRPC, gRPC-Web and Connect."""
