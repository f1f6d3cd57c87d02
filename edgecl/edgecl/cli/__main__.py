"""`python -m edgecl.cli`: the command `edgecl`, for processes that we start."""

from edgecl_deploy.commands import main

main()
