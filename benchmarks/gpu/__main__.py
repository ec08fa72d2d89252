"""The entry point: it makes a bare machine fit for the imports, then runs the command."""

from benchmarks.gpu.bare import prepare

if __name__ == "__main__":
    prepare()
    from benchmarks.gpu.supervisor import main

    raise SystemExit(main())
