"""The regional prompter's face: panel, layouts, infotext, arguments and XYZ axes.

The panel itself is drawn by `javascript/loraclr_regional*.js`; gradio holds one hidden text with the spec's JSON, which
is also what the API takes, what the picture's infotext keeps, and what a saved layout is.
"""
