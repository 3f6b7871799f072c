def test_a(store: object, workers: object) -> None:
    pass
