"""The server of exported networks: predict.py --serve_port."""
