"""`export` and `import`: all records as lines of JSON.

exporting   the command `export`
importing   the command `import`
lines       the lines of a file, and the operations that they stand for
sending     a batch of lines, and the outcome of each
journal     how far an import of a file has come, so that it can go on after a kill
"""
